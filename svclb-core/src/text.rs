//! Escapes untrusted text (names, labels, file names, errors, rows of maps) for logs and terminals.
//!
//! This is the one place that escapes. Its output has no character that a terminal interprets or does not
//! show: control characters (also those of C1), line and paragraph separators,
//! marks that change the direction of text, blanks of no width, combining marks, private and unassigned
//! ones. They are shown by their names or numbers, as Rust's `Debug` does; everything else, quotes and
//! backslashes included, stays as it is.
//!
//! * [`line()`]: a text in one line.
//! * [`short`]: the same with an end, for what may be long.
//! * [`json`]: JSON whose strings are escaped further, as JSON has it.
//! * [`event`]: a line of the log that may be coloured.

use std::fmt::Write as _;

/// The most characters of a text that [`short`] shows.
pub const LONGEST: usize = 300;

/// Returns true for a character that needs no escape.
fn is_plain(letter: char) -> bool {
    matches!(letter, ' '..='~') || (!letter.is_ascii() && letter.escape_debug().len() == 1)
}

fn show(letter: char, shown: &mut String) {
    match letter {
        plain if is_plain(plain) => shown.push(plain),
        hidden => shown.extend(hidden.escape_default()),
    }
}

/// A text in one line, all of it.
pub fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|letter| show(letter, &mut shown));
    shown
}

/// The beginning of a text, in one line: [`LONGEST`] characters of it, and a mark where there were more.
pub fn short(text: &str) -> String {
    let mut shown = String::new();
    let mut letters = text.chars();
    letters.by_ref().take(LONGEST).for_each(|letter| show(letter, &mut shown));
    if letters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// JSON with every hidden character of its strings escaped (serializers do so only with the first 32).
/// Between its tokens JSON has no such characters but blanks and line feeds, which stay.
pub fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter == '\n' || is_plain(letter) {
            shown.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
    shown
}

/// Escapes a line of the log, except for its final line feed. Where it is `coloured`, colours and other
/// renditions (`ESC [ 1 ; 31 m`) stay, so untrusted text must have passed [`line()`] before.
pub fn event(text: &str, coloured: bool) -> String {
    let (mut rest, end) = match text.strip_suffix('\n') {
        Some(rest) => (rest, "\n"),
        None => (text, ""),
    };
    let mut shown = String::with_capacity(text.len());
    while let Some(at) = rest.find('\u{1b}').filter(|_| coloured) {
        let (before, from) = rest.split_at(at);
        before.chars().for_each(|letter| show(letter, &mut shown));
        let length = rendition(from).unwrap_or(0);
        shown.push_str(&from[..length]);
        rest = &from[length..];
        if length == 0 {
            show('\u{1b}', &mut shown);
            rest = &from[1..];
        }
    }
    rest.chars().for_each(|letter| show(letter, &mut shown));
    shown.push_str(end);
    shown
}

/// The length in bytes of the rendition at the beginning of a text; none when there is none.
fn rendition(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let length = parameters.find(|letter: char| !(letter.is_ascii_digit() || letter == ';'))?;
    parameters[length..].starts_with('m').then_some(2 + length + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_or_hide_is_shown() {
        let rows = [
            ("usual", "no such thing: \"a\\b\"", "no such thing: \"a\\b\""),
            ("letters of others", "größer 大 λ", "größer 大 λ"),
            ("lines", "a\nb\r\tc", "a\\nb\\r\\tc"),
            ("a terminal's", "\u{1b}[31mred", "\\u{1b}[31mred"),
            ("C1", "\u{9b}31m\u{85}", "\\u{9b}31m\\u{85}"),
            ("bell, backspace, delete", "\u{7}\u{8}\u{7f}", "\\u{7}\\u{8}\\u{7f}"),
            ("nothing", "\0", "\\u{0}"),
            ("direction", "a\u{202e}b\u{2066}c\u{200f}", "a\\u{202e}b\\u{2066}c\\u{200f}"),
            ("separators", "\u{2028}\u{2029}\u{a0}", "\\u{2028}\\u{2029}\\u{a0}"),
            ("no width", "\u{200b}\u{feff}\u{ad}", "\\u{200b}\\u{feff}\\u{ad}"),
            ("tags", "\u{e0041}", "\\u{e0041}"),
            ("combining", "e\u{301}", "e\\u{301}"),
        ];
        for (row, text, expected) in rows {
            assert_eq!(line(text), expected, "{row}");
        }
    }

    #[test]
    fn a_text_that_may_be_long_has_an_end() {
        let long = "é".repeat(100_000);
        let rows = [
            ("as long as may be", &long[..600], "é".repeat(300)),
            ("longer", &long, format!("{}…", "é".repeat(300))),
        ];
        for (row, text, expected) in rows {
            assert_eq!(short(text), expected, "{row}");
        }
    }

    #[test]
    fn colours_of_the_log_stay_and_nothing_else_does() {
        let rows = [
            ("coloured", "\u{1b}[2mnow\u{1b}[0m \u{1b}[1;31mE\u{1b}[m\n", None),
            ("two lines", "a\nb\n", Some("a\\nb\n")),
            ("clear the screen", "\u{1b}[2Ja\n", Some("\\u{1b}[2Ja\n")),
            ("a title", "\u{1b}]0;x\u{7}\n", Some("\\u{1b}]0;x\\u{7}\n")),
            ("cut off", "a\u{1b}", Some("a\\u{1b}")),
            ("cut off later", "a\u{1b}[1;", Some("a\\u{1b}[1;")),
            ("twice", "\u{1b}\u{1b}[0m", Some("\\u{1b}\u{1b}[0m")),
        ];
        for (row, text, expected) in rows {
            assert_eq!(event(text, true), expected.unwrap_or(text), "{row}");
            let plain = text.trim_end_matches('\n');
            assert_eq!(event(text, false), line(plain) + &text[plain.len()..], "{row}, no colours");
        }
    }

    const COLOUR: char = '\u{1b}';

    proptest! {
        #[test]
        fn nothing_hidden_comes_out_whatever_goes_in(text in any::<String>()) {
            prop_assert!(line(&text).chars().all(is_plain));
            let short = short(&text);
            prop_assert!(short.chars().all(|letter| letter == '…' || is_plain(letter)));
            let said = text + "\n";
            let (coloured, plain) = (event(&said, true), event(&said, false));
            let may_be = |letter| letter == COLOUR || is_plain(letter);
            prop_assert!(coloured.strip_suffix('\n').unwrap().chars().all(may_be));
            prop_assert!(plain.strip_suffix('\n').unwrap().chars().all(is_plain));
        }

        #[test]
        fn json_says_the_same_with_nothing_hidden_in_it(text in any::<String>()) {
            let escaped = json(&serde_json::to_string_pretty(&[&text]).unwrap());
            prop_assert!(escaped.chars().all(|letter| letter == '\n' || is_plain(letter)));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).unwrap(), [text]);
        }
    }
}
