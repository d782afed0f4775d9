//! The picture, the keys, and the terminal after a panic.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::pty::openpty;
use nix::sys::termios::tcgetattr;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;

/// Set for the process that panics.
const INNER: &str = "SVCLB_TEST_IS_INNER";

fn row(name: &str, new_per_second: f64) -> TopView {
    TopView {
        namespace: "shop".into(),
        name: name.into(),
        port_name: "http".into(),
        protocol: "TCP".into(),
        new_per_second,
        sockets: 7,
        backends: 2,
    }
}

fn view() -> View {
    View {
        rows: vec![row("web", 1.5), row("db\u{1b}[2J", 0.0)],
        shown: Vec::new(),
        has_rates: true,
        interval: 2,
        sort: Sort::New,
        filter: String::new(),
        edits_filter: false,
        offset: 0,
        fault: None,
        heading: Style::new().bold(),
    }
}

fn press(view: &mut View, keys: &str) -> bool {
    let code = |letter| match letter {
        '\n' => KeyCode::Enter,
        '\u{8}' => KeyCode::Backspace,
        'v' => KeyCode::Down,
        other => KeyCode::Char(other),
    };
    keys.chars().any(|letter| view.ends_with(code(letter).into()))
}

fn picture(view: &View) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(76, 5)).unwrap();
    terminal.draw(|frame| view.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(76);
    let lines =
        lines.map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect::<String>());
    lines.map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn the_picture_has_totals_columns_and_keys_and_no_control_characters() {
    let mut view = view();
    view.select();
    let shown = picture(&view);
    assert_eq!(shown[0], "2 services, 14 sockets, 1.5 new/s over 2 s");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(&shown[1]), "NAMESPACE NAME PORT PROTOCOL NEW/S SOCKETS BACKENDS");
    assert_eq!(words(&shown[2]), "shop web http TCP 1.5 7 2");
    assert!(words(&shown[3]).starts_with(r"shop db\u{1b}[2J"), "{shown:?}");
    assert!(shown[4].starts_with("q quit"), "{shown:?}");
    view.has_rates = false;
    assert_eq!(words(&picture(&view)[2]), "shop web http TCP - 7 2");
    view.fault = Some("no maps\u{1b}".into());
    assert_eq!(picture(&view)[4], r"no maps\u{1b}");
}

#[test]
fn keys_order_filter_scroll_and_end() {
    let rows = [
        ("nothing", "", "shop/web shop/db", false),
        ("by name", "a", "shop/db shop/web", false),
        ("by new", "an", "shop/web shop/db", false),
        ("a filter", "/we", "shop/web", false),
        ("letters of a filter are no keys", "/q", "", false),
        ("a corrected filter", "/wx\u{8}\n", "shop/web", false),
        ("scrolled", "v", "shop/web shop/db", false),
        ("the end", "q", "shop/web shop/db", true),
        ("the end after a filter", "/db\nq", "shop/db", true),
        ("an unknown key", "?", "shop/web shop/db", false),
    ];
    for (name, keys, expected, ends) in rows {
        let mut view = view();
        view.rows[1].name = "db".into();
        view.select();
        assert_eq!(press(&mut view, keys), ends, "{name}");
        let names = view.shown.iter().map(|row| format!("{}/{}", row.namespace, row.name));
        assert_eq!(names.collect::<Vec<_>>().join(" "), expected, "{name}");
    }
    let mut view = view();
    view.select();
    press(&mut view, "vvvv");
    assert_eq!(view.offset, 1, "the last row stays");
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    view.edits_filter = true;
    assert!(view.ends_with(interrupt));
}

#[test]
fn the_terminal_is_restored_after_a_panic() {
    if env::var_os(INNER).is_some() {
        let _terminal = RestoredTerminal::enter().unwrap();
        panic!("on purpose");
    }
    let pty = openpty(None, None).unwrap();
    let before = tcgetattr(&pty.slave).unwrap();
    let own = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "cli::top::screen::tests::the_terminal_is_restored_after_a_panic"]);
    command
        .arg("--nocapture")
        .env(INNER, "1")
        .env_remove("RUST_BACKTRACE")
        .stdin(own())
        .stdout(own())
        .stderr(own());
    // The pty becomes the terminal of the process, as in a shell.
    // SAFETY: two system calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    drop(command);
    assert!(!child.wait().unwrap().success());
    assert_eq!(tcgetattr(&pty.slave).unwrap(), before);
    drop(pty.slave);
    let mut written = Vec::new();
    // The end of a pty is an error.
    let _ = File::from(pty.master).read_to_end(&mut written);
    let written = String::from_utf8_lossy(&written);
    let at = |sequence: &str| written.find(sequence).unwrap_or_else(|| panic!("{written:?}"));
    let (enter, leave, message) = (at("\u{1b}[?1049h"), at("\u{1b}[?1049l"), at("on purpose"));
    assert!(enter < leave && leave < message, "{written:?}");
}
