//! Plays kubelet and container runtime for the containers of a manifest: the image's files as a
//! read-only root, the volumes mounted as asked for, the capabilities that are granted and no other.
//!
//! What the node has at `/sys/fs/cgroup` and `/sys/fs/bpf` is the world's. The pod's processes are in a
//! cgroup below the world's and see nothing above their own. seccomp, AppArmor and SELinux are not played.

pub(crate) mod image;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chroot};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use svclb_tests::{World, spawn};
use tempfile::TempDir;

/// Where a pod finds its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Names of capabilities as Kubernetes has them, and their numbers (linux/capability.h).
const CAPABILITIES: [(&str, u32); 3] = [("NET_ADMIN", 12), ("PERFMON", 38), ("BPF", 39)];
/// The last one that there is, with room.
const LAST_CAPABILITY: u32 = 63;

/// A pod of a DaemonSet on the world's node.
pub(crate) struct Pod<'w> {
    world: &'w World,
    spec: Value,
    node: String,
    root: TempDir,
    /// Token and certificate, as the kubelet mounts them.
    account: TempDir,
    server: Option<(String, u16)>,
    is_hybrid: bool,
    /// What the node has at `/sys/fs/bpf`.
    bpffs: PathBuf,
    log: PathBuf,
}

impl<'w> Pod<'w> {
    /// The pod that this DaemonSet would have on the node.
    pub(crate) fn new(world: &'w World, daemon_set: &Value, node: &str) -> Self {
        let root = image::Archive::read().unpack();
        let prefix = format!("svclb-test-{}-pod-", std::process::id());
        let account = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
        fs::create_dir_all(world.cgroup().join("pod")).unwrap();
        Self {
            world,
            spec: daemon_set["spec"]["template"]["spec"].clone(),
            node: node.to_owned(),
            root,
            log: account.path().join("log"),
            account,
            server: None,
            is_hybrid: false,
            bpffs: world.pins().parent().unwrap().to_owned(),
        }
    }

    /// Gives it what a pod knows of the API server.
    pub(crate) fn knows(mut self, server: (&str, u16), token: &str, authority: &Path) -> Self {
        let file = |name: &str| self.account.path().join(name);
        fs::write(file("token"), token).unwrap();
        fs::write(file("namespace"), "kube-system").unwrap();
        fs::copy(authority, file("ca.crt")).unwrap();
        self.server = Some((server.0.to_owned(), server.1));
        self
    }

    /// Puts it on a node that has cgroup v1 at `/sys/fs/cgroup`, and cgroup2 in `unified` there.
    pub(crate) fn on_hybrid_node(mut self) -> Self {
        fs::create_dir_all(self.account.path().join("cgroup/unified")).unwrap();
        self.is_hybrid = true;
        self
    }

    /// Puts it on a node that has nothing mounted at `/sys/fs/bpf`, a folder of sysfs: gives that as well.
    /// It is shared, as systemd makes all of a node's mounts.
    pub(crate) fn on_node_without_bpffs(mut self) -> (Self, PathBuf) {
        let system = self.account.path().join("sys");
        fs::create_dir(&system).unwrap();
        self.bpffs = system.join("fs/bpf");
        let folder = c_string(&system);
        self.world.inside(move || {
            let (kind, nothing) = (c"sysfs", None::<&str>);
            mount(Some(kind), folder.as_c_str(), Some(kind), MsFlags::empty(), nothing).unwrap();
            propagate(&folder, MsFlags::MS_SHARED).unwrap();
        });
        let folder = self.bpffs.clone();
        (self, folder)
    }

    /// Puts it on a node that has this folder at `/sys/fs/bpf`.
    pub(crate) fn at_bpffs(mut self, folder: &Path) -> Self {
        folder.clone_into(&mut self.bpffs);
        self
    }

    /// Sets the pod's volumes up, as the kubelet does before any container: a folder to be made is made
    /// with the mode 0755 (pkg/volume/hostpath). Every container that is started does it again.
    ///
    /// # Errors
    /// What keeps the pod from starting.
    pub(crate) fn set_up_volumes(&self) -> Result<(), String> {
        for volume in self.spec["volumes"].as_array().into_iter().flatten() {
            let path = self.on_node(volume["hostPath"]["path"].as_str().unwrap());
            let kind = volume["hostPath"]["type"].as_str().unwrap_or_default().to_owned();
            self.world.inside(move || match &*kind {
                "Directory" if !path.is_dir() => Err(format!("{} is no folder", path.display())),
                "DirectoryOrCreate" if !path.is_dir() => make_folder(&path, 0o755),
                "Directory" | "DirectoryOrCreate" => Ok(()),
                other => Err(format!("this kubelet does not know the type {other:?}")),
            })?;
        }
        Ok(())
    }

    /// Where the node has a path of a volume.
    fn on_node(&self, path: &str) -> PathBuf {
        if let Some(below) = path.strip_prefix("/sys/fs/bpf") {
            return self.bpffs.join(below.trim_start_matches('/'));
        }
        assert_eq!(path, "/sys/fs/cgroup", "this node has no other folder");
        self.world.cgroup().to_owned()
    }

    /// The folder of a volume that a container mounts, made if need be (pkg/volume/util/subpath), with the
    /// mode of the volume.
    fn sub_path(&self, volume: &Path, asked: &Value) -> PathBuf {
        let Some(below) = asked["subPath"].as_str() else { return volume.to_owned() };
        let (volume, path) = (volume.to_owned(), volume.join(below));
        let made = path.clone();
        let done = self.world.inside(move || match made.is_dir() {
            true => Ok(()),
            false => make_folder(&made, fs::metadata(volume).unwrap().permissions().mode()),
        });
        done.unwrap();
        path
    }

    /// A container's specification.
    fn container(&self, name: &str) -> &Value {
        let of = |kind: &str| self.spec[kind].as_array().cloned().unwrap_or_default().len();
        let all = (0..of("initContainers"))
            .map(|at| &self.spec["initContainers"][at])
            .chain((0..of("containers")).map(|at| &self.spec["containers"][at]));
        all.into_iter()
            .find(|it| it["name"] == name)
            .unwrap_or_else(|| panic!("no container {name}"))
    }

    /// Runs a container's own command to its end.
    pub(crate) fn run(&self, container: &str) -> Output {
        let arguments = strings(&self.container(container)["args"]);
        self.world.output(self.command(container, &arguments))
    }

    /// Starts a container's own command.
    pub(crate) fn start(&self, container: &str) -> Running {
        let arguments = strings(&self.container(container)["args"]);
        let mut command = self.command(container, &arguments);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?)
            });
        }
        Running(self.world.inside(move || spawn(&mut command).unwrap()))
    }

    /// What the containers that were started have said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs the readiness probe of a container.
    pub(crate) fn probe(&self, container: &str) -> Result<(), String> {
        let command = strings(&self.container(container)["readinessProbe"]["exec"]["command"]);
        assert_eq!(command[0], "/svclb", "the image has no other program");
        let output = self.world.output(self.command(container, &command[1..]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    }

    /// Runs svclb in a container, as `kubectl exec` does.
    pub(crate) fn exec(&self, container: &str, arguments: &[&str]) -> Output {
        let arguments: Vec<String> = arguments.iter().map(|&it| it.to_owned()).collect();
        self.world.output(self.command(container, &arguments))
    }

    fn command(&self, container: &str, arguments: &[String]) -> Command {
        let container = self.container(container);
        let mut command = Command::new("/svclb");
        command.args(arguments).env_clear();
        for variable in container["env"].as_array().into_iter().flatten() {
            let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
            let value = match field {
                Some("spec.nodeName") => self.node.as_str(),
                Some(other) => panic!("this kubelet does not know {other}"),
                None => variable["value"].as_str().unwrap(),
            };
            command.env(variable["name"].as_str().unwrap(), value);
        }
        if let Some((host, port)) = &self.server {
            command.env("KUBERNETES_SERVICE_HOST", host);
            command.env("KUBERNETES_SERVICE_PORT", port.to_string());
        }
        let entrance = self.world.cgroup().join("pod/cgroup.procs");
        let mut entrance = File::options().write(true).open(entrance).unwrap();
        let (mounts, capabilities) = (self.mounts(container), capabilities(container));
        let root = c_string(self.root.path());
        // SAFETY: system calls only between fork and exec; what they are given is already made.
        unsafe {
            command.pre_exec(move || {
                entrance.write_all(b"0")?;
                enter(&root, &mounts)?;
                confine(&capabilities)
            });
        }
        command
    }

    /// Every mount of a container, with the folders to mount at made.
    fn mounts(&self, container: &Value) -> Vec<Mount> {
        self.set_up_volumes().unwrap_or_else(|error| panic!("the pod does not start: {error}"));
        let mut mounts: Vec<Mount> = ["/proc", "/sys", "/dev"]
            .into_iter()
            .map(|path| self.mount(Path::new(path), path, path == "/sys"))
            .collect();
        if self.server.is_some() {
            mounts.push(self.mount(self.account.path(), ACCOUNT, true));
        }
        for asked in container["volumeMounts"].as_array().into_iter().flatten() {
            let volumes = self.spec["volumes"].as_array().unwrap();
            let volume = volumes.iter().find(|it| it["name"] == asked["name"]).unwrap();
            let target = asked["mountPath"].as_str().unwrap();
            let is_read_only = asked["readOnly"] == true;
            let propagation = propagation(asked);
            let path = volume["hostPath"]["path"].as_str().unwrap();
            if path == "/sys/fs/cgroup" && self.is_hybrid {
                let folder = self.account.path().join("cgroup");
                mounts.push(self.mount(&folder, target, is_read_only));
                let target = format!("{target}/unified");
                mounts.push(self.mount(self.world.cgroup(), &target, is_read_only));
                continue;
            }
            let source = self.sub_path(&self.on_node(path), asked);
            mounts.push(Mount { propagation, ..self.mount(&source, target, is_read_only) });
        }
        mounts
    }

    fn mount(&self, source: &Path, target: &str, is_read_only: bool) -> Mount {
        let target = self.root.path().join(target.trim_start_matches('/'));
        fs::create_dir_all(&target).unwrap();
        let propagation = MsFlags::MS_PRIVATE;
        Mount { source: c_string(source), target: c_string(&target), is_read_only, propagation }
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the pod's log:\n{}", self.log());
        }
    }
}

/// A container that runs, killed when dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Stops it as the kubelet does, and waits.
    pub(crate) fn stop(mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap()
    }

    /// What it may do now, and what a program that it starts could: bits by the numbers of
    /// capabilities (proc_pid_status(5), CapEff and CapBnd).
    pub(crate) fn capabilities(&self) -> [u64; 2] {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        ["CapEff:", "CapBnd:"].map(|name| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(value.trim(), 16).unwrap()
        })
    }

    /// Where it sees a bpffs or a part of one: mount point, folder of the bpffs, and whether it may write
    /// (proc_pid_mountinfo(5)). What the machine itself has below `/sys` is left out.
    pub(crate) fn bpffs(&self) -> Vec<(String, String, bool)> {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.0.id())).unwrap();
        let all = mounts.lines().filter(|line| line.contains(" - bpf ")).map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let writes = fields[5].split(',').any(|option| option == "rw");
            (fields[4].to_owned(), fields[3].to_owned(), writes)
        });
        all.filter(|(at, ..)| !at.starts_with("/sys/")).collect()
    }

    /// Names in a folder, as it sees them.
    pub(crate) fn names_in(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{}/root{folder}", self.0.id())).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Mount {
    source: CString,
    target: CString,
    is_read_only: bool,
    propagation: MsFlags,
}

/// Which way later mounts go between the node and a container.
fn propagation(asked: &Value) -> MsFlags {
    match asked["mountPropagation"].as_str() {
        None | Some("None") => MsFlags::MS_PRIVATE,
        Some("HostToContainer") => MsFlags::MS_SLAVE,
        Some("Bidirectional") => MsFlags::MS_SHARED,
        Some(other) => panic!("{other} is no propagation"),
    }
}

/// Makes the container's view of files, and enters it.
fn enter(root: &CString, mounts: &[Mount]) -> io::Result<()> {
    // The world's mounts are private already, but for the one that a node shares.
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)?;
    bind(root, root)?;
    for it in mounts {
        bind(&it.source, &it.target)?;
        propagate(&it.target, it.propagation)?;
        if it.is_read_only {
            read_only(&it.target)?;
        }
    }
    read_only(root)?;
    let root = Path::new(std::ffi::OsStr::from_bytes(root.as_bytes()));
    chroot(root)?;
    std::env::set_current_dir("/")
}

fn bind(source: &CString, target: &CString) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    Ok(mount(Some(source.as_c_str()), target.as_c_str(), None::<&str>, flags, None::<&str>)?)
}

fn propagate(target: &CString, how: MsFlags) -> io::Result<()> {
    let flags = MsFlags::MS_REC | how;
    Ok(mount(None::<&str>, target.as_c_str(), None::<&str>, flags, None::<&str>)?)
}

fn read_only(target: &CString) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    Ok(mount(None::<&str>, target.as_c_str(), None::<&str>, flags, None::<&str>)?)
}

/// Leaves a later program of root only these capabilities, and no way to more.
fn confine(capabilities: &Option<Vec<u32>>) -> io::Result<()> {
    let Some(granted) = capabilities else { return Ok(()) };
    for capability in (0..=LAST_CAPABILITY).filter(|it| !granted.contains(it)) {
        // SAFETY: plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            // Above the last one that the kernel knows.
            if error.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(error);
        }
    }
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// What a container's securityContext grants; nothing: all of it.
fn capabilities(container: &Value) -> Option<Vec<u32>> {
    let context = &container["securityContext"];
    if context["privileged"] == true {
        return None;
    }
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(strings(&context["capabilities"]["drop"]), ["ALL"]);
    let number = |name: &String| {
        let found = CAPABILITIES.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("{name} is no capability that svclb needs")).1
    };
    Some(strings(&context["capabilities"]["add"]).iter().map(number).collect())
}

fn make_folder(path: &Path, mode: u32) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot make {}: {error}", path.display());
    fs::create_dir(path).map_err(cannot)?;
    // Whatever this process masks.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(cannot)
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}
