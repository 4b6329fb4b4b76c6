//! Patterns of ids, as LoaderEntryDefault and loader.conf's `default` hold them.

/// Whether the whole of `text` matches: `*`, `?`, `[a-z]`, and `\` before a character that means itself, as
/// efi_fnmatch() in systemd's src/boot/efi-string.c. Both are expected in lower case.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on when the last `*` has to take one character more.
    let mut star = None;
    while t < text.len() || p < pattern.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, t));
            p += 1;
        } else if let Some(next) = text.get(t).and_then(|c| one(&pattern, p, *c)) {
            (p, t) = (next, t + 1);
        } else if let Some((after, taken)) = star.filter(|(_, taken)| *taken < text.len()) {
            star = Some((after, taken + 1));
            (p, t) = (after, taken + 1);
        } else {
            return false;
        }
    }
    true
}

/// Whether `c` matches what is at `p`, and where the pattern goes on.
fn one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => set(pattern, p + 1, c),
        '\\' => (pattern.get(p + 1) == Some(&c)).then_some(p + 2),
        literal => (*literal == c).then_some(p + 1),
    }
}

/// `[abc]` and `[a-c]`; a `]` that comes first is one of the set. A set without an end matches nothing.
fn set(pattern: &[char], first: usize, c: char) -> Option<usize> {
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|p| *p == ']')?;
    let (mut at, mut found) = (first, false);
    while at < end {
        if at + 2 < end && pattern[at + 1] == '-' {
            found |= (pattern[at]..=pattern[at + 2]).contains(&c);
            at += 3;
        } else {
            found |= pattern[at] == c;
            at += 1;
        }
    }
    found.then_some(end + 1)
}

/// Whether `id` as a pattern matches nothing but itself.
pub fn is_plain(id: &str) -> bool {
    !id.contains(['*', '?', '[', '\\'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("a", "a"),
            ("debian-*", "debian-6.1.conf"),
            ("*.conf", "a.conf"),
            ("a*b*c", "aXbYbc"),
            ("?", "a"),
            ("[a-c]x", "bx"),
            ("[]]", "]"),
            ("\\*", "*"),
            ("[a-]", "-"),
            ("**", "a"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("a", "ab"),
            ("debian-*", "fedora"),
            ("?", ""),
            ("[a-c]", "d"),
            ("[a", "a"),
            ("\\", "\\"),
            ("*a", "ab"),
            ("[]", "]"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn plain_ids_match_themselves(id in "[a-z0-9.+-]{0,16}", other in "[a-z0-9.+-]{0,16}") {
            prop_assert!(is_plain(&id) && matches(&id, &id));
            prop_assert_eq!(matches(&id, &other), id == other);
        }

        #[test]
        fn any_pattern(pattern in "[]ab*?\\[\\\\-]{0,10}", text in "[ab]{0,10}") {
            let _ = matches(&pattern, &text);
        }
    }
}
