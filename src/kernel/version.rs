//! The order of kernel releases.

use std::cmp::Ordering;

/// Compares two releases as Debian compares versions (deb-version(7)), with `-rc` before the release that it leads to.
///
/// A total order: releases that are the same version in another spelling (`6.1`, `6.01`) are ordered by their bytes.
pub fn compare_releases(a: &str, b: &str) -> Ordering {
    // `~` sorts before everything, the end included; in a release that part is played by `-rc`.
    let (x, y) = (a.replace("-rc", "~rc"), b.replace("-rc", "~rc"));
    compare(x.as_bytes(), y.as_bytes()).then_with(|| a.cmp(b))
}

/// dpkg's comparison of one version part: stretches of non-digits and of digits by turns.
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (text_a, text_b) = (take(&mut a, |c| !c.is_ascii_digit()), take(&mut b, |c| !c.is_ascii_digit()));
        let texts = compare_text(text_a, text_b);
        let (num_a, num_b) = (take(&mut a, |c| c.is_ascii_digit()), take(&mut b, |c| c.is_ascii_digit()));
        let order = texts.then_with(|| compare_number(num_a, num_b));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Cuts the longest beginning that `belongs` off `rest`.
fn take<'a>(rest: &mut &'a [u8], belongs: impl Fn(&u8) -> bool) -> &'a [u8] {
    let (head, tail) = rest.split_at(rest.iter().take_while(|c| belongs(c)).count());
    *rest = tail;
    head
}

/// `~`, then the end, then letters, then everything else.
fn compare_text(a: &[u8], b: &[u8]) -> Ordering {
    let weight = |c: Option<&u8>| match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(*c),
        Some(c) => i32::from(*c) + 256,
    };
    let longest = a.len().max(b.len());
    (0..longest).map(|i| weight(a.get(i)).cmp(&weight(b.get(i)))).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

/// Any number of digits, so no integer type.
fn compare_number(a: &[u8], b: &[u8]) -> Ordering {
    let trim = |n: &[u8]| n.iter().copied().skip_while(|c| *c == b'0').collect::<Vec<_>>();
    let (a, b) = (trim(a), trim(b));
    a.len().cmp(&b.len()).then(a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn releases_in_their_order() {
        let sorted = [
            "4.19.0-27-amd64",
            "6.1.0-9-amd64",
            "6.1.0-10-amd64",
            "6.12-rc7-amd64",
            "6.12-amd64",
            "6.12.94+deb13-cloud-amd64",
            "6.12.107+deb13-amd64",
            "6.12.107+deb13-cloud-amd64",
            "6.12.107+deb13.1-amd64",
            "7.3.4",
        ];
        for pair in sorted.windows(2) {
            assert_eq!(compare_releases(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }

    proptest! {
        #[test]
        fn a_total_order(
            a in "[0-9a-c.+~-]{0,6}(-rc)?[01]{0,2}",
            b in "[0-9a-c.+~-]{0,6}(-rc)?[01]{0,2}",
            c in "[0-9a-c.+~-]{0,6}(-rc)?[01]{0,2}",
        ) {
            prop_assert_eq!(compare_releases(&a, &b), compare_releases(&b, &a).reverse());
            prop_assert_eq!(compare_releases(&a, &b).is_eq(), a == b);
            let mut all = [a, b, c];
            all.sort_by(|x, y| compare_releases(x, y));
            prop_assert!(compare_releases(&all[0], &all[1]).is_le());
            prop_assert!(compare_releases(&all[1], &all[2]).is_le());
            prop_assert!(compare_releases(&all[0], &all[2]).is_le());
        }
    }
}
