//! The syntax of unit files (systemd.syntax(7)): lines in, assignments out. Knows no file system and no unit.

/// `Key=value` in a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The section's name without brackets.
    pub section: String,
    /// What stands before the first `=`.
    pub key: String,
    /// What stands after it; empty resets what was assigned before.
    pub value: String,
    /// The line that it begins on, counted from 1.
    pub line: u32,
}

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// In the file's order.
    pub assignments: Vec<Assignment>,
    /// The line of a section header without its closing bracket. systemd stops reading there, and so does [`parse`].
    pub broken: Option<u32>,
}

/// Parses a unit file or a drop-in. Lines that systemd warns about and ignores (no `=`, no key, before the first
/// section, not UTF-8) are ignored here too.
pub fn parse(text: &[u8]) -> Parsed {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let (mut parsed, mut section) = (Parsed::default(), None);
    let mut open: Option<(u32, Vec<u8>)> = None;
    for (number, line) in (1..).zip(lines(text)) {
        // A comment does not end a continued line; it is not part of it either.
        if matches!(line.trim_ascii_start().first(), Some(b'#' | b';')) {
            continue;
        }
        let (first, mut logical) = open.take().unwrap_or((number, Vec::new()));
        logical.extend_from_slice(line);
        if continues(&logical) {
            logical.pop();
            logical.push(b' ');
            open = Some((first, logical));
        } else if !take(&logical, first, &mut section, &mut parsed) {
            return parsed;
        }
    }
    if let Some((first, logical)) = open {
        take(&logical, first, &mut section, &mut parsed);
    }
    parsed
}

/// Lines end in a newline, a carriage return and newline, a carriage return, or a NUL, as systemd reads them.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.iter().position(|b| matches!(b, b'\n' | b'\r' | 0)) else {
            rest = None;
            return Some(text);
        };
        let width = if text[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = Some(&text[end + width..]);
        Some(&text[..end])
    })
}

/// Whether the line ends in a backslash that is not itself escaped.
fn continues(line: &[u8]) -> bool {
    line.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
}

/// Takes one logical line; false where reading must stop.
fn take(line: &[u8], number: u32, section: &mut Option<String>, parsed: &mut Parsed) -> bool {
    let Ok(line) = str::from_utf8(line) else { return true };
    let line = line.trim_matches(WHITESPACE);
    if let Some(header) = line.strip_prefix('[') {
        let Some(name) = header.strip_suffix(']') else {
            parsed.broken = Some(number);
            return false;
        };
        *section = Some(name.into());
    } else if let (Some(section), Some((key, value))) = (section, line.split_once('=')) {
        let (section, key) = (section.clone(), key.trim_matches(WHITESPACE).to_string());
        if !key.is_empty() {
            let value = value.trim_matches(WHITESPACE).into();
            parsed.assignments.push(Assignment { section, key, value, line: number });
        }
    }
    true
}

/// What systemd strips from both ends.
const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// systemd's boolean words, in any case (systemd.syntax(7), and the one-letter forms that it takes too).
pub fn boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flat(text: &str) -> Vec<(String, String, String, u32)> {
        parse(text.as_bytes()).assignments.into_iter().map(|a| (a.section, a.key, a.value, a.line)).collect()
    }

    fn one(section: &str, key: &str, value: &str, line: u32) -> (String, String, String, u32) {
        (section.into(), key.into(), value.into(), line)
    }

    #[test]
    fn the_manual_pages_example() {
        let text = "[Section A]\nKeyOne=value 1\nKeyTwo=value 2\n\n# a comment\n\n[Section B]\n\
            Setting=\"something\" \"some thing\" \"...\"\nKeyTwo=value 2 \\\n       value 2 continued\n\n\
            [Section C]\nKeyThree=value 3\\\n# this line is ignored\n; this line is ignored too\n       value 3 continued\n";
        assert_eq!(
            flat(text),
            [
                one("Section A", "KeyOne", "value 1", 2),
                one("Section A", "KeyTwo", "value 2", 3),
                one("Section B", "Setting", "\"something\" \"some thing\" \"...\"", 8),
                one("Section B", "KeyTwo", "value 2         value 2 continued", 9),
                one("Section C", "KeyThree", "value 3        value 3 continued", 13),
            ]
        );
    }

    #[test]
    fn oddities() {
        assert_eq!(flat("A=before any section\n[S]\nno equals sign\n=no key\nB = = x\n"), [one("S", "B", "= x", 5)]);
        assert_eq!(flat("\u{feff}[S]\r\nA=1\r\n  # c\r\nA=\r\n"), [one("S", "A", "1", 2), one("S", "A", "", 4)]);
        assert_eq!(flat("[S]\nA=x\\\\\nB=y\\"), [one("S", "A", "x\\\\", 2), one("S", "B", "y", 3)]);
        assert_eq!(flat("[S]\nA=1 \\\n\nB=2\n"), [one("S", "A", "1", 2), one("S", "B", "2", 4)]);
        assert_eq!(parse(b"[S]\nA=\xff\nB=2").assignments.len(), 1);
        let broken = parse(b"[S]\nA=1\n[T\nB=2\n");
        assert_eq!((broken.assignments.len(), broken.broken), (1, Some(3)));
    }

    #[test]
    fn booleans() {
        for (word, want) in [("Yes", Some(true)), ("off", Some(false)), ("1", Some(true)), ("2", None), ("", None)] {
            assert_eq!(boolean(word), want, "{word}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in prop::collection::vec(any::<u8>(), 0..300)) {
            parse(&text);
        }

        #[test]
        fn never_panics_on_what_looks_like_a_unit(text in "([\\[\\]=#;\\\\ \n\r\tA-c]){0,120}") {
            for a in parse(text.as_bytes()).assignments {
                prop_assert!(!a.key.is_empty() && a.line >= 1);
                prop_assert!(!a.value.contains(['\n', '\r']));
            }
        }

        /// What is written as one assignment a line is read as just that, however the lines are broken and commented.
        #[test]
        fn rendered_assignments_come_back(
            assignments in prop::collection::vec(("[A-Z][A-Za-z]{0,8}", "[A-Za-z][A-Za-z-]{0,8}", "([!-\\[\\]-~]([ -\\[\\]-~]{0,20}[!-\\[\\]-~])?)?", any::<bool>()), 0..12),
        ) {
            let mut text = String::new();
            for (section, key, value, broken) in &assignments {
                let gap = if *broken { " \\\n  # aside\n\t" } else { " " };
                text += &format!("[{section}]\n; aside\n{key} ={gap}{value} \n\n");
            }
            let want: Vec<_> = assignments.iter().map(|(s, k, v, _)| (s.clone(), k.clone(), v.clone())).collect();
            // A value that begins like a comment would be one on a line of its own.
            prop_assume!(assignments.iter().all(|(_, _, v, broken)| !*broken || !v.starts_with(['#', ';'])));
            let got: Vec<_> = flat(&text).into_iter().map(|(s, k, v, _)| (s, k, v)).collect();
            prop_assert_eq!(got, want);
        }
    }
}
