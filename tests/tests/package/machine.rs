//! A machine in a world: systemd as the first process, over this machine's files, of which it changes none.
//!
//! The root is an overlay over this machine's, whose upper layer is in memory; `/sys` and `/proc/sys` are read-only; the
//! network is the world's. The machine sees the world's cgroup as the root of cgroup2. None of this machine's
//! units are there: only the few targets that every unit depends on, and the journal.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use svclb_tests::{World, eventually};
use tempfile::TempDir;

/// Makes the machine's root, and becomes its first process. Prints that process's id.
const BOOT: &str = r#"
read -r pid _ </proc/self/stat
mount -t tmpfs -o mode=0755 machine "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" machine "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf -o mode=0700 bpf sys/fs/bpf
# The root of all cgroups does not have this file.
test -e sys/fs/cgroup/cgroup.events
units=usr/lib/systemd/system
for folder in dev run tmp $units $units-generators etc/systemd/system; do
    mount -t tmpfs -o mode=0755 machine $folder
done
for file in null zero full random urandom tty; do
    touch dev/$file
    mount --bind /dev/$file dev/$file
done
for unit in basic.target multi-user.target shutdown.target sysinit.target systemd-journald.service \
    systemd-journald.socket systemd-journald-dev-log.socket; do
    cp "/$units/$unit" $units
done
mkdir $units/sysinit.target.wants
ln -s ../systemd-journald.service $units/sysinit.target.wants
# For private devices.
ln -s pts/ptmx dev/ptmx
# Images of containers have the first, which keeps packages from starting their units.
rm -f usr/sbin/policy-rc.d etc/fstab etc/machine-id
echo 0123456789abcdef0123456789abcdef >etc/machine-id
cp "$2" tmp/svclb.deb
mkdir sys/fs/cgroup/machine
echo 0 >sys/fs/cgroup/machine/cgroup.procs
mkdir -p mnt
pivot_root . mnt
umount -l mnt
echo "$pid"
exec env -i container=svclb-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=multi-user.target
"#;

/// A machine that has booted. It ends on drop.
pub(crate) struct Machine<'w> {
    world: &'w World,
    /// The parent of the first process, which kills it when it ends.
    boot: Child,
    /// The first process.
    init: String,
    _folder: TempDir,
}

impl<'w> Machine<'w> {
    /// Boots a machine that has this file as `/tmp/svclb.deb`.
    pub(crate) fn boot(world: &'w World, package: &Path) -> Self {
        let prefix = format!("svclb-test-{}-machine-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
        let mut command = Command::new("sh");
        // The namespace of cgroups begins where the shell is.
        command.args(["-ec", "echo 0 >\"$0/cgroup.procs\"; exec \"$@\""]).arg(world.cgroup());
        command.args(["unshare", "--mount", "--pid", "--cgroup", "--fork", "--kill-child"]);
        command.args(["sh", "-ec", BOOT, "boot"]).arg(folder.path()).arg(package);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut boot = world.spawn(command);
        let mut init = String::new();
        BufReader::new(boot.stdout.take().unwrap()).read_line(&mut init).unwrap();
        assert!(!init.is_empty(), "the machine does not boot, see above");
        let machine = Self { world, boot, init: init.trim().to_owned(), _folder: folder };
        eventually("the machine has booted", || {
            let output = machine.run("systemctl is-system-running");
            let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if state == "running" { Ok(()) } else { Err(format!("{state}: {output:?}")) }
        });
        machine
    }

    /// Runs a shell's command line on the machine.
    pub(crate) fn run(&self, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.init, "sh", "-c", line]).env_clear();
        command.envs([
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("DEBIAN_FRONTEND", "noninteractive"),
        ]);
        self.world.output(command)
    }

    /// Runs a command line that has to succeed, and returns what it prints.
    pub(crate) fn ok(&self, line: &str) -> String {
        let Output { status, stdout, stderr } = self.run(line);
        let [stdout, stderr] = [stdout, stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
        assert!(
            status.success(),
            "`{line}` failed ({status}):\n{stdout}{stderr}\n{}",
            self.journal()
        );
        stdout.trim().to_owned()
    }

    fn journal(&self) -> String {
        let output = self.run("journalctl --no-pager --lines 40");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the machine's journal ended with:\n{}", self.journal());
        }
        // Its child, the first process, takes everything on the machine with it.
        let _ = self.boot.kill();
        let _ = self.boot.wait();
    }
}
