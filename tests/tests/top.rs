//! `svclb top`: once for scripts, and on a terminal, which is as before when a signal or a key ends it.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failure in a helper fails the test, with its reason"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};
use serde_json::Value;
use svclb_tests::{Backend, LIMIT, Tcp, World};

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
/// The beginning of cyan.
const COLOUR: &str = "\u{1b}[38;5;6";

fn world(name: &str) -> (World, Backend) {
    let world = World::new(name);
    let web = world.backend("web", Tcp, "10.244.0.1:8080");
    for (service, address) in [("shop/web", "10.96.0.10"), ("shop/db", "10.96.0.20")] {
        world.service(service).cluster_ip(address).port(80, Tcp).backends([&web]).apply();
    }
    (world, web)
}

#[test]
fn live_sockets_are_counted_and_those_of_the_interval_are_new() {
    let (world, _web) = world("top-once");
    let dial = |to: &str| world.dial(Tcp, to).unwrap();
    let _before = [dial("10.96.0.20:80"), dial("10.96.0.20:80")];
    let mut command = Command::new(world.program());
    command.args(["top", "-o", "json", "--interval", "3", "--filter", "shop/", "--pins"]);
    command.arg(world.pins()).stdout(Stdio::piped());
    let top = world.spawn(command);
    // The command may take its first sample before, between or after these, but within its interval it sees
    // some of so many.
    let (done, is_done) = channel::<()>();
    let printed = thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            let output = top.wait_with_output().unwrap();
            drop(done);
            output
        });
        let mut opened = Vec::new();
        while is_done.recv_timeout(std::time::Duration::from_millis(50)).is_err()
            && !waiter.is_finished()
        {
            opened.push(dial("10.96.0.10:80"));
        }
        waiter.join().unwrap()
    });
    assert!(printed.status.success(), "{printed:?}");
    let rows: Vec<Value> = serde_json::from_slice(&printed.stdout).unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["web", "db"], "the most new ones first: {rows:#?}");
    assert!(rows[0]["new_per_second"].as_f64().unwrap() > 0.0, "{rows:#?}");
    assert_eq!(rows[1]["new_per_second"], 0.0, "{rows:#?}");
    assert_eq!((&rows[1]["sockets"], &rows[1]["backends"]), (&2.into(), &1.into()), "{rows:#?}");
}

/// `svclb top` on a terminal of its own.
struct OnTerminal {
    process: Child,
    slave: OwnedFd,
    keys: File,
    output: Receiver<Vec<u8>>,
    before: Termios,
    written: String,
}

impl OnTerminal {
    fn start(world: &World, no_colour: bool) -> Self {
        let size = Winsize { ws_row: 20, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let own = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = Command::new(world.program());
        command.args(["top", "--interval", "1", "--pins"]).arg(world.pins());
        command.stdin(own()).stdout(own()).stderr(own()).env_remove("NO_COLOR");
        if no_colour {
            command.env("NO_COLOR", "1");
        }
        let process = world.spawn(command);
        let mut master = File::from(pty.master);
        let keys = master.try_clone().unwrap();
        let (send, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of a terminal is an error.
            while let Ok(length) = master.read(&mut buffer) {
                if send.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { process, slave: pty.slave, keys, output, before, written: String::new() }
    }

    /// Waits until this was written: a word, since blanks need not be.
    fn wait_for(&mut self, text: &str) {
        while !self.written.contains(text) {
            let more = self.output.recv_timeout(LIMIT);
            let more = more.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.written));
            self.written.push_str(&String::from_utf8_lossy(&more));
        }
    }

    /// Asserts that it ends well and leaves the terminal as it was.
    fn assert_restored(mut self) -> String {
        self.wait_for(LEAVE);
        let status = self.process.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{status}: {:?}", self.written);
        assert_eq!(tcgetattr(&self.slave).unwrap(), self.before);
        self.written
    }
}

#[test]
fn the_terminal_is_as_before_after_a_key_and_after_each_signal() {
    let (world, _web) = world("top-terminal");
    let _socket = world.dial(Tcp, "10.96.0.10:80").unwrap();
    for (name, signal) in
        [("TERM", libc::SIGTERM), ("INT", libc::SIGINT), ("HUP", libc::SIGHUP), ("q", 0)]
    {
        let mut top = OnTerminal::start(&world, false);
        top.wait_for(ENTER);
        top.wait_for("new/s");
        assert_ne!(tcgetattr(&top.slave).unwrap(), top.before, "{name}");
        if signal == 0 {
            top.keys.write_all(b"q").unwrap();
        } else {
            // SAFETY: no memory is involved, and the child was not waited for.
            unsafe { libc::kill(top.process.id().cast_signed(), signal) };
        }
        let written = top.assert_restored();
        assert!(written.contains(COLOUR), "{name}: {written:?}");
    }
}

#[test]
fn without_colours_it_filters_as_keys_say() {
    let (world, _web) = world("top-keys");
    let mut top = OnTerminal::start(&world, true);
    top.wait_for("new/s");
    top.keys.write_all(b"/").unwrap();
    top.wait_for("filter:");
    // The first of them is a letter of the filter.
    top.keys.write_all(b"q\rq").unwrap();
    let written = top.assert_restored();
    assert!(!written.contains(COLOUR) && written.contains("SOCKETS"), "{written:?}");
}
