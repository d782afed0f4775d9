//! The pins of a world's agent: their paths, and the damage that a test does to them.

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

    /// The folder of the pins of a layout version, whether or not it exists.
    pub fn version_of(&self, number: u32) -> PathBuf {
        self.pins().join(format!("v{number}"))
    }

    /// The path of a pin in use, by its kind (`maps` or `links`) and its name.
    pub fn pinned(&self, kind: &str, name: &str) -> PathBuf {
        self.version().join(kind).join(name)
    }

    /// The sorted names in a folder of pins; empty if the folder does not exist.
    ///
    /// # Panics
    /// If the folder cannot be read.
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

    /// Moves a pin, creating the target folder if necessary.
    ///
    /// # Panics
    /// If it cannot be moved.
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
    /// If it does not exist.
    pub fn unpin(&self, pin: &Path) {
        let pin = pin.to_owned();
        self.inside(move || fs::remove_file(pin).unwrap());
    }

    /// Replaces or removes the label of a pinned map, which then counts as a map of another layout.
    ///
    /// # Panics
    /// If the map has no label.
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

    /// Detaches a hook's link, as an operator would; its pin stays.
    ///
    /// # Panics
    /// If that fails.
    pub fn detach(&self, hook: &str) {
        self.bpftool(["link", "detach", "pinned"], [self.pinned("links", hook)]);
    }

    /// The ids of the programs behind the pinned links, in the order of [`HOOKS`].
    ///
    /// # Panics
    /// If a link does not exist.
    pub fn programs(&self) -> Vec<u64> {
        let program = |hook: &&str| {
            let shown = self.bpftool_show("link", &self.pinned("links", hook));
            shown["prog_id"].as_u64().unwrap_or_else(|| panic!("{hook}: {shown}"))
        };
        HOOKS.iter().map(program).collect()
    }

    /// The kernel objects behind the pins in a folder such as [`Self::version`], by kind and id: maps,
    /// links, and the links' programs.
    ///
    /// # Panics
    /// If a pin cannot be read.
    pub fn objects_in(&self, folder: &Path) -> Vec<(&'static str, u64)> {
        let mut found = Vec::new();
        for (folder, kind) in [(folder.join("maps"), "map"), (folder.join("links"), "link")] {
            for name in self.names_in(&folder) {
                let shown = self.bpftool_show(kind, &folder.join(name));
                let id = |field: &str| shown[field].as_u64().unwrap_or_else(|| panic!("{shown}"));
                found.push((kind, id("id")));
                if kind == "link" {
                    found.push(("prog", id("prog_id")));
                }
            }
        }
        found
    }

    /// Waits until the kernel has freed these objects, which it does asynchronously.
    ///
    /// # Panics
    /// If it does not within the limit.
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

    /// The JSON that bpftool(8) prints for a pinned `map` or `link`.
    ///
    /// # Panics
    /// If bpftool fails or prints no JSON.
    pub fn bpftool_show(&self, kind: &str, pin: &Path) -> Value {
        let output = self.bpftool(["-j", kind, "show", "pinned"], [pin]);
        serde_json::from_slice(&output)
            .unwrap_or_else(|error| panic!("{kind} {}: {error}", pin.display()))
    }

    /// Runs bpftool(8) inside the namespaces and returns its standard output.
    ///
    /// # Panics
    /// If it fails.
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
