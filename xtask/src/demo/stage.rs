//! The surroundings of the demonstration: namespaces, a cgroup, pins, YAML files, the agent. [`Stage`] removes
//! all of them when it is dropped. The kernel removes the namespaces even if this process is killed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::backends::PODS;
use super::client::{self, Sighting};
use crate::{environment, shell};

/// The bundled Services.
const YAML: [(&str, &str); 4] = [
    ("hello.yaml", include_str!("../../demo/hello.yaml")),
    ("hello2.yaml", include_str!("../../demo/hello2.yaml")),
    ("clock.yaml", include_str!("../../demo/clock.yaml")),
    ("hello6.yaml", include_str!("../../demo/hello6.yaml")),
];
/// Time limit for the start and for the end of the agent.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything in which the demonstration runs.
pub(super) struct Stage {
    svclb: PathBuf,
    folder: PathBuf,
    cgroup: PathBuf,
    agent: Option<Child>,
}

/// Time of a change of a file, on two clocks.
pub(super) struct Edited {
    pub(super) instant: Instant,
    /// Since the epoch.
    pub(super) time: Duration,
}

/// A client that connects in the background.
pub(super) struct Follow(thread::JoinHandle<std::io::Result<Output>>);

impl Stage {
    /// Makes the namespaces, the cgroup and the pods, starts the agent, and waits until it is ready.
    pub(super) fn set_up(svclb: &Path) -> Result<Self> {
        environment::check()?;
        let process = std::process::id();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let (cgroup2, _) = environment::cgroup2(&mounts).context("no cgroup2 is mounted")?;
        // Before any thread starts, as threads inherit the namespaces.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .context("cannot make namespaces")?;
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
            .context("cannot make the mounts private")?;
        let mut stage = Self {
            svclb: svclb.to_owned(),
            folder: std::env::temp_dir().join(format!("svclb-demo-{process}")),
            cgroup: Path::new(cgroup2).join(format!("svclb-demo-{process}")),
            agent: None,
        };
        fs::create_dir(&stage.folder).context("cannot make a temporary folder")?;
        fs::create_dir(&stage.cgroup)
            .with_context(|| format!("cannot make the cgroup {}", stage.cgroup.display()))?;
        for folder in [stage.yaml(), stage.bpffs()] {
            fs::create_dir(folder)?;
        }
        // In this mount namespace only, so that its end removes the pins and the objects that they hold.
        mount(Some("bpf"), &stage.bpffs(), Some("bpf"), MsFlags::empty(), nothing)
            .context("cannot mount a bpffs")?;
        for (name, text) in YAML {
            fs::write(stage.yaml().join(name), text)?;
        }
        stage.make_pods()?;
        stage.start_agent()?;
        Ok(stage)
    }

    /// Returns the folder with the YAML files.
    pub(super) fn yaml(&self) -> PathBuf {
        self.folder.join("yaml")
    }

    fn bpffs(&self) -> PathBuf {
        self.folder.join("bpffs")
    }

    fn pins(&self) -> PathBuf {
        self.bpffs().join("svclb")
    }

    fn make_pods(&self) -> Result<()> {
        shell::text(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        for pod in &PODS {
            for address in pod.addresses()? {
                let ip = address.ip().to_string();
                // Without `nodad`, an IPv6 address cannot be bound within its first second.
                let extra: &[&str] = if address.is_ipv6() { &["nodad"] } else { &[] };
                shell::text(
                    Command::new("ip").args(["addr", "add", &ip, "dev", "lo"]).args(extra),
                )?;
            }
            pod.start()?;
        }
        Ok(())
    }

    fn agent(&self) -> Command {
        let mut command = Command::new(&self.svclb);
        command.arg("agent").arg("--from").arg(self.yaml());
        command.arg("--cgroup").arg(&self.cgroup).arg("--pins").arg(self.pins());
        command
    }

    /// Returns the command line of the agent.
    pub(super) fn agent_command(&self) -> String {
        shell::command_line(&self.agent())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    fn start_agent(&mut self) -> Result<()> {
        let log = fs::File::create(self.log())?;
        let mut command = self.agent();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| shell::cannot_start(&command))?;
        let stdout = child.stdout.take().context("the agent has no output")?;
        self.agent = Some(child);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        match receiver.recv_timeout(PATIENCE) {
            Ok(line) if line == "ready" => Ok(()),
            _ => {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                bail!("the agent did not become ready; its log:\n{log}")
            }
        }
    }

    /// Makes a command run in the cgroup that svclb serves.
    fn in_cgroup(&self, command: &mut Command) {
        let processes = self.cgroup.join("cgroup.procs");
        // SAFETY: between fork and exec it only opens, writes and closes a file, whose path exists already.
        unsafe { command.pre_exec(move || fs::write(&processes, "0")) };
    }

    /// Fetches a URL by curl, as a client on the node.
    pub(super) fn curl(&self, url: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "5", "--noproxy", "*", url]);
        self.in_cgroup(&mut curl);
        shell::text(&mut curl)
    }

    fn client_command(&self, task: &[&str]) -> Result<Command> {
        let mut client = Command::new(std::env::current_exe()?);
        client.arg("demo-client").args(task);
        self.in_cgroup(&mut client);
        Ok(client)
    }

    /// Runs one of the clients in [`client`].
    pub(super) fn client(&self, task: &[&str]) -> Result<String> {
        shell::text(&mut self.client_command(task)?)
    }

    /// Starts a client that makes one connection after the other.
    pub(super) fn follow(&self, dial: &str, time: Duration) -> Result<Follow> {
        let milliseconds = time.as_millis().to_string();
        let mut client = self.client_command(&["follow", dial, &milliseconds])?;
        client.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = client.spawn().with_context(|| shell::cannot_start(&client))?;
        // A thread reads its output while it runs, as a full pipe would stop it.
        Ok(Follow(thread::spawn(move || child.wait_with_output())))
    }

    /// Runs a command of svclb that only reads.
    pub(super) fn svclb(&self, command: &[&str]) -> Result<String> {
        shell::text(Command::new(&self.svclb).args(command).arg("--pins").arg(self.pins()))
    }

    /// Shows a map by bpftool.
    pub(super) fn dump(&self, map: &str) -> Result<()> {
        let bpftool = shell::find("bpftool").context("no bpftool: run `cargo xtask setup`")?;
        let pin = self.pins().join("v1/maps").join(map);
        // This command prints the same lines as the code below.
        let filter = "jq -c '.[].formatted'";
        shell::print(&format!("$ bpftool --json map dump pinned PINS/v1/maps/{map} | {filter}"));
        let mut dump = Command::new(bpftool);
        let output = shell::text(dump.args(["--json", "map", "dump", "pinned"]).arg(pin))?;
        let rows: Vec<serde_json::Value> =
            serde_json::from_str(&output).context("bpftool printed no JSON")?;
        for row in &rows {
            shell::print(&format!("  {}", row["formatted"]));
        }
        Ok(())
    }

    /// Changes a file as editors do, by writing a new file and renaming it.
    pub(super) fn edit(
        &self,
        name: &str,
        change: impl Fn(&str) -> Option<String>,
    ) -> Result<Edited> {
        let path = self.yaml().join(name);
        let text = change(&fs::read_to_string(&path)?)
            .with_context(|| format!("{name} has unexpected content"))?;
        let new = self.yaml().join(format!(".{name}.new"));
        fs::write(&new, text)?;
        let edited = Edited { instant: Instant::now(), time: client::now()? };
        fs::rename(&new, &path)?;
        Ok(edited)
    }

    /// Stops the agent and removes everything.
    pub(super) fn tear_down(&mut self) -> Result<()> {
        self.stop_agent()?;
        self.svclb(&["uninstall"])?;
        self.remove()
    }

    fn stop_agent(&mut self) -> Result<()> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        let pid = Pid::from_raw(i32::try_from(agent.id())?);
        kill(pid, Signal::SIGTERM).context("cannot stop the agent")?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = agent.try_wait()? {
                ensure!(status.success(), "the agent ended with {status}");
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        agent.kill()?;
        agent.wait()?;
        bail!("the agent did not end within {PATIENCE:?} of SIGTERM")
    }

    fn remove(&self) -> Result<()> {
        if self.bpffs().exists() {
            // It is not mounted if the set-up failed before that.
            let _ = nix::mount::umount(&self.bpffs());
        }
        ignore_missing(fs::remove_dir_all(&self.folder))?;
        ignore_missing(fs::remove_dir(&self.cgroup))
            .with_context(|| format!("cannot remove the cgroup {}", self.cgroup.display()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if let Err(error) = self.remove() {
            eprintln!("error: {error:#}");
        }
    }
}

impl Follow {
    /// Waits for its end, and returns every connection that it made.
    pub(super) fn finish(self) -> Result<Vec<Sighting>> {
        let output = self
            .0
            .join()
            .map_err(|_| anyhow!("the thread that reads the client's output panicked"))??;
        client::sightings(&String::from_utf8_lossy(&shell::stdout_of(output, "the client")?))
    }
}

fn ignore_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
