//! What somebody else wrote, for the log.

/// How much of it is told.
const LONGEST: usize = 300;

/// The beginning of a text, in one line: no control characters.
pub(super) fn short(text: &str) -> String {
    let mut shown = String::new();
    for (number, letter) in text.chars().enumerate() {
        if number == LONGEST {
            shown.push('…');
            break;
        }
        if letter.is_control() {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_told_in_one_line_and_not_without_end() {
        let long = "é".repeat(100_000);
        let rows = [
            ("usual", "no such thing", "no such thing".to_owned()),
            ("lines", "a\nb\r\tc", "a\\nb\\r\\tc".to_owned()),
            ("a terminal's", "\u{1b}[31mred", "\\u{1b}[31mred".to_owned()),
            ("as long as may be", &long[..600], "é".repeat(300)),
            ("longer", &long, format!("{}…", "é".repeat(300))),
        ];
        for (row, text, expected) in rows {
            assert_eq!(short(text), expected, "{row}");
        }
    }
}
