//! The pins of a world's agent: where they are, and what somebody else does to them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use svclb_common::layout::LAYOUT_VERSION;

use super::wait::eventually;
use super::world::World;

/// Every hook, by the name of its link's pin.
pub const HOOKS: [&str; 9] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "sock_release",
];

impl World {
    /// The folder of the pins in use.
    pub fn version(&self) -> PathBuf {
        self.version_of(LAYOUT_VERSION)
    }

    /// The folder that the pins of a version are, or would be, in.
    pub fn version_of(&self, number: u32) -> PathBuf {
        self.pins().join(format!("v{number}"))
    }

    /// A pin in use: in `maps` or `links`, by its name.
    pub fn pinned(&self, kind: &str, name: &str) -> PathBuf {
        self.version().join(kind).join(name)
    }

    /// What lies in a folder of the pins, by name; nothing, where there is no folder.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn names_in(&self, folder: &Path) -> Vec<String> {
        let folder = folder.to_owned();
        self.inside(move || {
            let entries = fs::read_dir(&folder).into_iter().flatten();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        })
    }

    /// Moves a pin, to a folder that is made if need be.
    ///
    /// # Panics
    /// When it cannot be moved.
    pub fn move_pin(&self, from: &Path, to: &Path) {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.inside(move || {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::rename(from, to).unwrap();
        });
    }

    /// Removes a pin.
    ///
    /// # Panics
    /// When it is not there.
    pub fn unpin(&self, pin: &Path) {
        let pin = pin.to_owned();
        self.inside(move || fs::remove_file(pin).unwrap());
    }

    /// Gives a pinned map another label, or none: it is one of another layout then.
    ///
    /// # Panics
    /// When it has none.
    pub fn relabel(&self, map: &str, text: Option<&str>) {
        let label = self.pinned("layouts", map);
        let text = text.map(str::to_owned);
        self.inside(move || {
            fs::remove_file(&label).unwrap();
            if let Some(text) = text {
                symlink(text, &label).unwrap();
            }
        });
    }

    /// Detaches a hook, as an operator would; its pin stays.
    ///
    /// # Panics
    /// When that fails.
    pub fn detach(&self, hook: &str) {
        self.bpftool(["link", "detach", "pinned"], [self.pinned("links", hook)]);
    }

    /// The programs behind the hooks' pinned links by their ids, in the order of [`HOOKS`].
    ///
    /// # Panics
    /// When a link is not there.
    pub fn programs(&self) -> Vec<u64> {
        let program = |hook: &&str| {
            let shown = self.shown("link", &self.pinned("links", hook));
            shown["prog_id"].as_u64().unwrap_or_else(|| panic!("{hook}: {shown}"))
        };
        HOOKS.iter().map(program).collect()
    }

    /// What the kernel has behind the pins in a folder such as [`Self::version`], by kind and id: maps,
    /// links, and their programs.
    ///
    /// # Panics
    /// When a pin cannot be read.
    pub fn objects_in(&self, folder: &Path) -> Vec<(&'static str, u64)> {
        let mut found = Vec::new();
        for (folder, kind) in [(folder.join("maps"), "map"), (folder.join("links"), "link")] {
            for name in self.names_in(&folder) {
                let shown = self.shown(kind, &folder.join(name));
                let id = |field: &str| shown[field].as_u64().unwrap_or_else(|| panic!("{shown}"));
                found.push((kind, id("id")));
                if kind == "link" {
                    found.push(("prog", id("prog_id")));
                }
            }
        }
        found
    }

    /// Waits until the kernel has freed these, which it does in its own time.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_until_freed<'a>(
        &self,
        objects: impl IntoIterator<Item = &'a (&'a str, u64)> + Clone,
    ) {
        let ids = |kind: &str| -> Vec<u64> {
            let shown = self.bpftool(["-j", kind, "show"], [""; 0]);
            let shown: Value = serde_json::from_slice(&shown).unwrap();
            shown.as_array().unwrap().iter().map(|it| it["id"].as_u64().unwrap()).collect()
        };
        eventually("the kernel has freed all of it", || {
            let there = ["map", "link", "prog"].map(|kind| (kind, ids(kind)));
            let is_left = |(kind, id): &&(&str, u64)| {
                there.iter().any(|(it, ids)| it == kind && ids.contains(id))
            };
            let left: Vec<_> = objects.clone().into_iter().filter(is_left).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }

    /// What bpftool(8) shows of a pinned `map` or `link`.
    ///
    /// # Panics
    /// When it shows nothing.
    pub fn shown(&self, kind: &str, pin: &Path) -> Value {
        let said = self.bpftool(["-j", kind, "show", "pinned"], [pin]);
        serde_json::from_slice(&said)
            .unwrap_or_else(|error| panic!("{kind} {}: {error}", pin.display()))
    }

    /// Runs bpftool(8) inside. Gives what it says.
    ///
    /// # Panics
    /// When it fails.
    pub fn bpftool<const N: usize>(
        &self,
        words: [&str; N],
        more: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Vec<u8> {
        let mut command = Command::new("bpftool");
        command.args(words).args(more);
        let output = self.output(command);
        assert!(output.status.success(), "bpftool {words:?}: {output:?}");
        output.stdout
    }
}
