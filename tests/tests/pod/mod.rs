//! Does the work of the kubelet and the container runtime for the containers of a manifest: the image's
//! files as a read-only root, the requested volumes, and only the granted capabilities.
//!
//! The node's `/sys/fs/cgroup` and `/sys/fs/bpf` are those of the world. The pod's processes are in a
//! cgroup below the world's and see nothing above it. seccomp, AppArmor and SELinux are not imitated.

pub(crate) mod image;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chroot};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use svclb_tests::{LIMIT, World, spawn};
use tempfile::TempDir;

/// Mount point of the service account in a pod.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Names of capabilities in Kubernetes, with their numbers (linux/capability.h).
const CAPABILITIES: [(&str, u32); 3] = [("NET_ADMIN", 12), ("PERFMON", 38), ("BPF", 39)];
/// An upper bound of the numbers of capabilities.
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
    /// The node's `/sys/fs/bpf`.
    bpffs: PathBuf,
    log: PathBuf,
}

impl<'w> Pod<'w> {
    /// Creates the pod that this DaemonSet would have on the node.
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

    /// Gives the pod the address of the API server and its service account.
    pub(crate) fn with_api_server(
        mut self,
        server: (&str, u16),
        token: &str,
        authority: &Path,
    ) -> Self {
        let file = |name: &str| self.account.path().join(name);
        fs::write(file("token"), token).unwrap();
        fs::write(file("namespace"), "kube-system").unwrap();
        fs::copy(authority, file("ca.crt")).unwrap();
        self.server = Some((server.0.to_owned(), server.1));
        self
    }

    /// Puts the pod on a node with cgroup v1 at `/sys/fs/cgroup` and cgroup2 in `unified` below.
    pub(crate) fn on_hybrid_node(mut self) -> Self {
        fs::create_dir_all(self.account.path().join("cgroup/unified")).unwrap();
        self.is_hybrid = true;
        self
    }

    /// Puts the pod on a node without a mount at `/sys/fs/bpf`, a folder of sysfs, which is returned as
    /// well. The mount is shared, as systemd makes all mounts of a node.
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

    /// Puts the pod on a node that has this folder at `/sys/fs/bpf`.
    pub(crate) fn at_bpffs(mut self, folder: &Path) -> Self {
        folder.clone_into(&mut self.bpffs);
        self
    }

    /// The program of the pod's image, which no other pod uses.
    pub(crate) fn program(&self) -> PathBuf {
        self.root.path().join("svclb")
    }

    /// Sets up the pod's volumes, as the kubelet does before any container: it creates a missing folder
    /// with mode 0755 (pkg/volume/hostpath). Every start of a container does this again.
    ///
    /// # Errors
    /// The reason why the pod cannot start.
    pub(crate) fn set_up_volumes(&self) -> Result<(), String> {
        for volume in self.spec["volumes"].as_array().into_iter().flatten() {
            let path = self.on_node(volume["hostPath"]["path"].as_str().unwrap());
            let kind = volume["hostPath"]["type"].as_str().unwrap_or_default().to_owned();
            self.world.inside(move || match &*kind {
                "Directory" if !path.is_dir() => Err(format!("{} is not a folder", path.display())),
                "DirectoryOrCreate" if !path.is_dir() => make_folder(&path, 0o755),
                "Directory" | "DirectoryOrCreate" => Ok(()),
                other => Err(format!(
                    "this stand-in for the kubelet does not support the type {other:?}"
                )),
            })?;
        }
        Ok(())
    }

    /// The path on the node of a volume.
    fn on_node(&self, path: &str) -> PathBuf {
        if let Some(below) = path.strip_prefix("/sys/fs/bpf") {
            return self.bpffs.join(below.trim_start_matches('/'));
        }
        assert_eq!(path, "/sys/fs/cgroup", "this node has no other folder");
        self.world.cgroup().to_owned()
    }

    /// Returns the folder of a volume that a container mounts, creating it if necessary
    /// (pkg/volume/util/subpath) with the mode of the volume.
    fn sub_path(&self, volume: &Path, volume_mount: &Value) -> PathBuf {
        let Some(below) = volume_mount["subPath"].as_str() else { return volume.to_owned() };
        let (volume, path) = (volume.to_owned(), volume.join(below));
        let made = path.clone();
        let done = self.world.inside(move || match made.is_dir() {
            true => Ok(()),
            false => make_folder(&made, fs::metadata(volume).unwrap().permissions().mode()),
        });
        done.unwrap();
        path
    }

    /// The specification of a container.
    fn container(&self, name: &str) -> &Value {
        let of = |kind: &str| self.spec[kind].as_array().cloned().unwrap_or_default().len();
        let all = (0..of("initContainers"))
            .map(|at| &self.spec["initContainers"][at])
            .chain((0..of("containers")).map(|at| &self.spec["containers"][at]));
        all.into_iter()
            .find(|it| it["name"] == name)
            .unwrap_or_else(|| panic!("the manifest has no container {name}"))
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

    /// The output of all started containers.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs the readiness probe of a container.
    pub(crate) fn probe(&self, container: &str) -> Result<(), String> {
        let command = strings(&self.container(container)["readinessProbe"]["exec"]["command"]);
        assert_eq!(command[0], "/svclb", "the image has no other program");
        let output = self.world.output(self.command(container, &command[1..]));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(stderr) }
    }

    /// Runs the liveness probe of a container: an HTTP request from the node.
    pub(crate) fn probe_liveness(&self, container: &str) -> Result<(), String> {
        let probe = &self.container(container)["livenessProbe"]["httpGet"];
        let host = probe["host"].as_str().unwrap().to_owned();
        let port = u16::try_from(probe["port"].as_u64().unwrap()).unwrap();
        let path = probe["path"].as_str().unwrap().to_owned();
        let answer = self.world.inside(move || {
            let mut stream = TcpStream::connect((&*host, port))?;
            stream.set_read_timeout(Some(LIMIT))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            io::Result::Ok(answer)
        });
        match answer {
            Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => Ok(()),
            other => Err(format!("{other:?}")),
        }
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
                Some(other) => panic!("this stand-in for the kubelet does not support {other}"),
                None => variable["value"].as_str().unwrap(),
            };
            command.env(variable["name"].as_str().unwrap(), value);
        }
        if let Some((host, port)) = &self.server {
            command.env("KUBERNETES_SERVICE_HOST", host);
            command.env("KUBERNETES_SERVICE_PORT", port.to_string());
        }
        let procs_file = self.world.cgroup().join("pod/cgroup.procs");
        let mut procs_file = File::options().write(true).open(procs_file).unwrap();
        let (mounts, capabilities) = (self.mounts(container), capabilities(container));
        let root = c_string(self.root.path());
        // SAFETY: system calls only between fork and exec; what they are given is already made.
        unsafe {
            command.pre_exec(move || {
                procs_file.write_all(b"0")?;
                enter(&root, &mounts)?;
                confine(&capabilities)
            });
        }
        command
    }

    /// Returns all mounts of a container, and creates their mount points.
    fn mounts(&self, container: &Value) -> Vec<Mount> {
        self.set_up_volumes().unwrap_or_else(|error| panic!("the pod does not start: {error}"));
        let mut mounts: Vec<Mount> = ["/proc", "/sys", "/dev"]
            .into_iter()
            .map(|path| self.mount(Path::new(path), path, path == "/sys"))
            .collect();
        if self.server.is_some() {
            mounts.push(self.mount(self.account.path(), ACCOUNT, true));
        }
        for volume_mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let volumes = self.spec["volumes"].as_array().unwrap();
            let volume = volumes.iter().find(|it| it["name"] == volume_mount["name"]).unwrap();
            let target = volume_mount["mountPath"].as_str().unwrap();
            let is_read_only = volume_mount["readOnly"] == true;
            let propagation = propagation(volume_mount);
            let path = volume["hostPath"]["path"].as_str().unwrap();
            if path == "/sys/fs/cgroup" && self.is_hybrid {
                let folder = self.account.path().join("cgroup");
                mounts.push(self.mount(&folder, target, is_read_only));
                let target = format!("{target}/unified");
                mounts.push(self.mount(self.world.cgroup(), &target, is_read_only));
                continue;
            }
            let source = self.sub_path(&self.on_node(path), volume_mount);
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

/// A running container, killed on drop.
pub(crate) struct Running(Child);

impl Running {
    /// Stops the container as the kubelet does, and waits for its exit.
    pub(crate) fn stop(mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap()
    }

    /// The effective and the bounding set of its capabilities, as bits by their numbers
    /// (proc_pid_status(5), CapEff and CapBnd).
    pub(crate) fn capabilities(&self) -> [u64; 2] {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        ["CapEff:", "CapBnd:"].map(|name| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(value.trim(), 16).unwrap()
        })
    }

    /// The program that it runs (proc_pid_exe(5)).
    pub(crate) fn program(&self) -> PathBuf {
        format!("/proc/{}/exe", self.0.id()).into()
    }

    /// The mounts of a bpffs that it sees: mount point, folder of the bpffs, and whether it may write
    /// (proc_pid_mountinfo(5)). The machine's own mounts below `/sys` are left out.
    pub(crate) fn bpffs(&self) -> Vec<(String, String, bool)> {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.0.id())).unwrap();
        let all = mounts.lines().filter(|line| line.contains(" - bpf ")).map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let writes = fields[5].split(',').any(|option| option == "rw");
            (fields[4].to_owned(), fields[3].to_owned(), writes)
        });
        all.filter(|(at, ..)| !at.starts_with("/sys/")).collect()
    }

    /// The names in a folder of its file system.
    pub(crate) fn names_in(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{}/root{folder}", self.0.id())).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Returns true while it runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both calls fail only if it has exited before.
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

/// The propagation of later mounts between the node and a container.
fn propagation(volume_mount: &Value) -> MsFlags {
    match volume_mount["mountPropagation"].as_str() {
        None | Some("None") => MsFlags::MS_PRIVATE,
        Some("HostToContainer") => MsFlags::MS_SLAVE,
        Some("Bidirectional") => MsFlags::MS_SHARED,
        Some(other) => panic!("{other} is not a mount propagation"),
    }
}

/// Enters a new mount and cgroup namespace with the container's file system.
fn enter(root: &CString, mounts: &[Mount]) -> io::Result<()> {
    // The world's mounts are private already, except the one that a node shares.
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

/// Limits later programs of root to these capabilities, with no way to gain more.
fn confine(capabilities: &Option<Vec<u32>>) -> io::Result<()> {
    let Some(granted) = capabilities else { return Ok(()) };
    for capability in (0..=LAST_CAPABILITY).filter(|it| !granted.contains(it)) {
        // SAFETY: plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            // The kernel does not know capabilities from this number on.
            if error.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(error);
        }
    }
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// The capabilities that a container's securityContext grants, or `None` for all of them.
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
    // Independent of the umask.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(cannot)
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}
