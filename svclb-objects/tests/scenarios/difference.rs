//! The first lines in which two texts differ.

/// Equal lines that are shown before the difference.
const BEFORE: usize = 3;
/// The most lines that are shown of each text.
const MOST: usize = 12;

/// The line number and the first differing lines of a file, `-`, and of what it should be, `+`; none when
/// both are equal.
pub(crate) fn first(file: &str, expected: &str) -> Option<String> {
    if file == expected {
        return None;
    }
    let (file, expected): (Vec<&str>, Vec<&str>) =
        (file.split('\n').collect(), expected.split('\n').collect());
    let start = file.iter().zip(&expected).take_while(|(a, b)| a == b).count();
    let same_end = |(a, b): &(&&str, &&str)| a == b;
    let shorter = file.len().min(expected.len()) - start;
    let end = file.iter().rev().zip(expected.iter().rev()).take(shorter);
    let end = end.take_while(same_end).count();
    let mut shown = format!("{}:\n", start + 1);
    let mut show = |mark: char, lines: &[&str]| {
        for line in lines.iter().take(MOST) {
            shown.push_str(&format!("{mark}{line}\n"));
        }
        if lines.len() > MOST {
            shown.push_str(&format!("{mark}... {} lines more\n", lines.len() - MOST));
        }
    };
    show(' ', &file[start.saturating_sub(BEFORE)..start]);
    show('-', &file[start..file.len() - end]);
    show('+', &expected[start..expected.len() - end]);
    Some(shown)
}
