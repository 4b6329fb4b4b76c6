//! grubenv: what GRUB remembers from boot to boot.

use std::collections::BTreeMap;

/// The variables in `text`, the content of /boot/grub/grubenv (see grub-editenv(1)): `name=value` lines, a backslash
/// before each backslash and newline of a value, padding of `#`.
pub fn parse(text: &str) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let mut input = text.chars();
    loop {
        let mut line = String::new();
        let ended = loop {
            match input.next() {
                Some('\\') => line.extend(input.next()),
                Some('\n') => break false,
                Some(c) => line.push(c),
                None => break true,
            }
        };
        if let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            variables.insert(name.to_string(), value.to_string());
        }
        if ended {
            return variables;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_and_odd_blocks() {
        assert_eq!(parse(include_str!("testdata/grubenv")), BTreeMap::from([("saved_entry".into(), "1".into())]));
        let odd = parse("# GRUB Environment Block\na=b\\\\c\\\nd\nempty=\nno\n####");
        assert_eq!(odd, BTreeMap::from([("a".into(), "b\\c\nd".into()), ("empty".into(), String::new())]));
        assert_eq!(parse(""), BTreeMap::new());
    }
}
