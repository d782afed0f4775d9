//! Builds the components from the Go modules under tests/components/, which pin them by checksums.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

use super::go;
use crate::shell;

/// A program and its Go package.
#[derive(Debug)]
pub(super) struct Program {
    /// Its name.
    pub(super) name: &'static str,
    /// The import path of its main package, a `tool` of the module.
    pub(super) package: &'static str,
}

/// A folder with a go.mod.
#[derive(Debug)]
pub(super) struct Module {
    /// The folder's name.
    name: &'static str,
    /// The Go module that holds the programs.
    path: &'static str,
    programs: &'static [Program],
}

/// A module and the content of its go.mod.
#[derive(Debug)]
pub(super) struct Pinned {
    module: &'static Module,
    folder: PathBuf,
    /// Version of the programs, such as `v1.37.2`.
    pub(super) version: String,
    /// Version of Go that it needs, such as `1.26.0`.
    pub(super) go: String,
    /// Content of go.mod and go.sum.
    pins: [String; 2],
}

/// All modules.
pub(super) static MODULES: [Module; 5] = [
    Module {
        name: "kubernetes",
        path: "k8s.io/kubernetes",
        programs: &[
            Program { name: "kube-apiserver", package: "k8s.io/kubernetes/cmd/kube-apiserver" },
            Program {
                name: "kube-controller-manager",
                package: "k8s.io/kubernetes/cmd/kube-controller-manager",
            },
            Program { name: "kube-proxy", package: "k8s.io/kubernetes/cmd/kube-proxy" },
            Program { name: "kubectl", package: "k8s.io/kubernetes/cmd/kubectl" },
        ],
    },
    Module {
        name: "etcd",
        path: "go.etcd.io/etcd/server/v3",
        programs: &[Program { name: "etcd", package: "go.etcd.io/etcd/server/v3" }],
    },
    Module {
        name: "coredns",
        path: "github.com/coredns/coredns",
        programs: &[Program { name: "coredns", package: "github.com/coredns/coredns" }],
    },
    Module {
        name: "kustomize",
        path: "sigs.k8s.io/kustomize/kustomize/v5",
        programs: &[Program { name: "kustomize", package: "sigs.k8s.io/kustomize/kustomize/v5" }],
    },
    // Both releases that are in use. The version is that of the newer one.
    Module {
        name: "helm",
        path: "helm.sh/helm/v4",
        programs: &[
            Program { name: "helm3", package: "helm.sh/helm/v3/cmd/helm" },
            Program { name: "helm4", package: "helm.sh/helm/v4/cmd/helm" },
        ],
    },
];

/// Flags of the build.
const FLAGS: [&str; 3] = ["-v", "-trimpath", "-buildvcs=false"];
/// Number of bytes of the digest in a folder's name.
const DIGEST: usize = 4;
/// Number of last lines of a failed build that are shown.
const TAIL: usize = 40;

impl Module {
    /// Reads its go.mod.
    ///
    /// # Errors
    /// A version is missing in it.
    pub(super) fn pinned(&'static self) -> anyhow::Result<Pinned> {
        let folder = shell::root().join("tests/components").join(self.name);
        let file = folder.join("go.mod");
        let read = |file: &Path| {
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
        };
        let pins = [read(&file)?, read(&folder.join("go.sum"))?];
        let text = &pins[0];
        let lacks = |what: &str| format!("{} lacks {what}", file.display());
        let version = required(text, self.path).with_context(|| lacks(self.path))?.to_owned();
        let go = directive(text, "go").with_context(|| lacks("a version of Go"))?.to_owned();
        Ok(Pinned { module: self, folder, version, go, pins })
    }
}

impl Pinned {
    /// Returns the name of the folder in the cache. Whatever changes the programs changes it.
    pub(super) fn key(&self) -> String {
        let mut digest = Sha256::new();
        let flags = [FLAGS.join(" "), self.linker_flags()];
        for part in self.pins.iter().chain(&flags) {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        let digest = digest.finalize();
        let short: String = digest.iter().take(DIGEST).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{}-{short}", self.name(), self.number())
    }

    fn name(&self) -> &'static str {
        self.module.name
    }

    /// Returns the version without its `v`.
    fn number(&self) -> &str {
        self.version.trim_start_matches('v')
    }

    /// Returns the programs of the module.
    pub(super) fn programs(&self) -> &'static [Program] {
        self.module.programs
    }

    /// Returns the flags for the linker: no debug information, and the version, which the build scripts of
    /// Kubernetes set too.
    fn linker_flags(&self) -> String {
        let mut flags = "-s -w".to_owned();
        if self.module.name == "kubernetes" {
            let mut numbers = self.number().split('.');
            let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
            for (name, value) in
                [("gitVersion", &self.version[..]), ("gitMajor", major), ("gitMinor", minor)]
            {
                flags.push_str(&format!(" -X k8s.io/component-base/version.{name}={value}"));
            }
        }
        flags
    }

    /// Builds programs into a folder. Incomplete ones are removed.
    ///
    /// # Errors
    /// Go fails: its last lines are shown.
    pub(super) fn build(
        &self,
        go: &Path,
        programs: &[&Program],
        into: &Path,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
        shell::log(&format!("fetching the sources of {} {}", self.name(), self.version));
        let mut progress = Progress::new(self.packages(go, programs)?);
        shell::log(&format!(
            "building {} {} (minutes, once for each version)",
            names.join(", "),
            self.version
        ));
        for program in programs {
            // A build that was killed may have left it. The folder is locked, so no other build uses it.
            let unfinished = into.join(format!(".{}", program.name));
            let _ = fs::remove_file(&unfinished);
            let built = self.build_one(go, program, &unfinished, &mut progress).and_then(|()| {
                let path = into.join(program.name);
                fs::rename(&unfinished, &path)
                    .with_context(|| format!("cannot put {} in place", path.display()))
            });
            if built.is_err() {
                // It may not exist.
                let _ = fs::remove_file(&unfinished);
            }
            built?;
            eprintln!("    {} was built after {}", program.name, shell::seconds(start));
        }
        Ok(())
    }

    /// Returns the number of packages of the programs. Go fetches the sources for that.
    fn packages(&self, go: &Path, programs: &[&Program]) -> anyhow::Result<usize> {
        let mut list = go::local(go);
        list.current_dir(&self.folder).args(["list", "-deps"]);
        list.args(programs.iter().map(|program| program.package));
        Ok(shell::text(&mut list)?.lines().count())
    }

    fn build_one(
        &self,
        go: &Path,
        program: &Program,
        output: &Path,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let mut build = go::local(go);
        build.current_dir(&self.folder).arg("build").args(FLAGS);
        build.args(["-ldflags", &self.linker_flags(), "-o"]).arg(output).arg(program.package);
        build.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = build.spawn().with_context(|| shell::cannot_start(&build))?;
        let mut tail = VecDeque::new();
        if let Some(stderr) = child.stderr.take() {
            // Each line is the name of a compiled package, or a part of an error.
            for line in BufReader::new(stderr).lines() {
                progress.step();
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line?);
            }
        }
        let status = child.wait()?;
        if status.success() {
            return Ok(());
        }
        for line in tail {
            eprintln!("    {line}");
        }
        bail!("`{}` failed ({status})", shell::command_line(&build))
    }
}

/// Progress of a build, which is shown at each tenth.
struct Progress {
    done: usize,
    all: usize,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { done: 0, all }
    }

    fn step(&mut self) {
        let tenth = |done: usize| done * 10 / self.all.max(1);
        let before = tenth(self.done);
        let now = tenth(self.done + 1);
        if now > before && now < 10 {
            eprintln!("    {now}0 % ({} of {} packages)", self.done + 1, self.all);
        }
        self.done += 1;
    }
}

/// Returns the version of a required module.
fn required<'a>(text: &'a str, module: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next() == Some(module)).then(|| words.next()).flatten()
    })
}

/// Returns the rest of the line that begins with a word.
fn directive<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_module_pins_its_version_its_go_and_its_programs() {
        for module in &MODULES {
            let pinned = module.pinned().unwrap();
            assert!(pinned.version.starts_with('v'), "{pinned:?}");
            assert!(pinned.go.starts_with("1."), "{pinned:?}");
            let text = fs::read_to_string(pinned.folder.join("go.mod")).unwrap();
            assert!(pinned.folder.join("go.sum").is_file(), "{pinned:?}");
            for program in pinned.programs() {
                let is_tool = text.lines().any(|line| {
                    let line = line.trim();
                    line == program.package || line == format!("tool {}", program.package)
                });
                assert!(is_tool, "{} is no tool of {}", program.package, module.name);
            }
        }
    }

    #[test]
    fn other_pins_or_flags_give_another_folder() {
        let pinned = || MODULES[0].pinned().unwrap();
        let usual = pinned().key();
        assert!(usual.starts_with("kubernetes-1."), "{usual}");
        assert_eq!(pinned().key(), usual);
        type Change = fn(&mut Pinned);
        let rows: [(&str, Change); 3] = [
            ("go.mod", |it| it.pins[0].push('\n')),
            ("go.sum", |it| it.pins[1].push('\n')),
            ("flags of the linker", |it| it.version.push('0')),
        ];
        for (row, change) in rows {
            let mut changed = pinned();
            change(&mut changed);
            let digest = |key: &str| key.rsplit_once('-').unwrap().1.to_owned();
            assert_ne!(digest(&changed.key()), digest(&usual), "{row}");
        }
    }

    #[test]
    fn the_linker_sets_the_version_of_kubernetes() {
        let pinned = MODULES[0].pinned().unwrap();
        let flags = pinned.linker_flags();
        assert!(flags.contains(&format!("version.gitVersion={}", pinned.version)), "{flags}");
    }

    #[test]
    fn a_requirement_is_found_alone_and_in_a_block() {
        let alone = "go 1.26.0\n\nrequire example.org/a v1.2.3\n";
        let block = "require (\n\texample.org/ab v0.1.0\n\texample.org/a v1.2.3 // indirect\n)\n";
        for text in [alone, block] {
            assert_eq!(required(text, "example.org/a"), Some("v1.2.3"), "{text}");
        }
        assert_eq!(required(alone, "example.org/b"), None);
        assert_eq!(directive(alone, "go"), Some("1.26.0"));
    }
}
