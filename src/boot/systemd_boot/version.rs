//! The order of versions and ids in the menu.

use std::cmp::Ordering;

/// Compares as systemd does: UAPI.10 Version Format Specification, strverscmp_improved() in systemd's
/// src/fundamental/string-util-fundamental.c. Not the order of [`crate::kernel::compare_releases`]: which entry is on top
/// is decided by this one.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        a = skip(a, |c| !is_valid(c));
        b = skip(b, |c| !is_valid(c));
        // A pre-release is older than its end.
        if let Some(order) = separator(&mut a, &mut b, b'~') {
            return order;
        }
        if a.is_empty() || b.is_empty() {
            return a.len().min(1).cmp(&b.len().min(1));
        }
        for mark in [b'-', b'^', b'.'] {
            if let Some(order) = separator(&mut a, &mut b, mark) {
                return order;
            }
        }
        let order = if starts_with_digit(a) || starts_with_digit(b) {
            let (x, y) = (take(&mut a, u8::is_ascii_digit), take(&mut b, u8::is_ascii_digit));
            // A number is newer than letters.
            (!x.is_empty()).cmp(&!y.is_empty()).then_with(|| number(x, y))
        } else {
            let (x, y) = (take(&mut a, u8::is_ascii_alphabetic), take(&mut b, u8::is_ascii_alphabetic));
            let shared = x.len().min(y.len());
            x[..shared].cmp(&y[..shared]).then(x.len().cmp(&y.len()))
        };
        if order.is_ne() {
            return order;
        }
    }
}

fn is_valid(c: &u8) -> bool {
    c.is_ascii_alphanumeric() || b"~-^.".contains(c)
}

/// The side that begins with `mark` is older; where both do it is taken off.
fn separator(a: &mut &[u8], b: &mut &[u8], mark: u8) -> Option<Ordering> {
    let (x, y) = (a.first() == Some(&mark), b.first() == Some(&mark));
    if x && y {
        (*a, *b) = (&a[1..], &b[1..]);
    }
    (x != y).then(|| y.cmp(&x))
}

fn starts_with_digit(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
}

fn skip(text: &[u8], drop: impl Fn(&u8) -> bool) -> &[u8] {
    &text[text.iter().take_while(|c| drop(c)).count()..]
}

fn take<'a>(text: &mut &'a [u8], keep: impl Fn(&u8) -> bool) -> &'a [u8] {
    let (head, tail) = text.split_at(text.iter().take_while(|c| keep(c)).count());
    *text = tail;
    head
}

/// Any number of digits, so no integer type.
fn number(a: &[u8], b: &[u8]) -> Ordering {
    let (a, b) = (skip(a, |c| *c == b'0'), skip(b, |c| *c == b'0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The list in systemd's own comment, and releases of Debian's.
    #[test]
    fn systemds_order() {
        for sorted in [
            &[
                "122.1",
                "123~rc1-1",
                "123",
                "123-a",
                "123-a.1",
                "123-1",
                "123-1.1",
                "123^post1",
                "123.a-1",
                "123.1-1",
                "123a-1",
                "124-1",
            ][..],
            &["6.12.94+deb13-cloud-amd64", "6.12.107+deb13-amd64", "6.12.107+deb13-cloud-amd64", "7.3.4+deb13-amd64"],
        ] {
            for pair in sorted.windows(2) {
                assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            }
        }
        assert_eq!(compare("123_a", "123a"), Ordering::Equal);
        assert_eq!(compare("007", "7"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn a_total_order(a in "[01a.~^+-]{0,5}", b in "[01a.~^+-]{0,5}", c in "[01a.~^+-]{0,5}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &a), Ordering::Equal);
            let mut all = [a, b, c];
            all.sort_by(|x, y| compare(x, y));
            prop_assert!(compare(&all[0], &all[2]).is_le(), "{all:?}");
        }
    }
}
