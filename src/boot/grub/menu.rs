//! grub.cfg evaluated as far as the menu and its default need it.
//!
//! What cannot be known outside GRUB (firmware, CMOS buttons, which file exists) is *unknown*, never guessed: both
//! branches of such an `if` are looked at, variables that differ after them are unknown, entries in them are uncertain.

use std::collections::BTreeMap;

use super::script::{self, BadScript, Node, Part, Word};
use crate::kernel::check_release;

/// A menu entry or submenu.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// What the user sees.
    pub title: String,
    /// `--id`; grub-mkconfig gives one to each entry.
    pub id: Option<String>,
    /// Release of the Linux kernel that it boots.
    pub release: Option<String>,
    /// For repairs: single-user mode.
    pub recovery: bool,
    /// It makes itself GRUB's saved entry.
    pub saves_default: bool,
    /// Whether it is there depends on something unknown.
    pub uncertain: bool,
    /// The entries of a submenu; `None` for an entry that boots something.
    pub children: Option<Vec<Entry>>,
}

/// The whole menu.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Menu {
    /// In the order of the file.
    pub entries: Vec<Entry>,
    /// The value of `default` when the menu is shown; `None` where it cannot be known.
    pub default: Option<String>,
    /// Of `timeout`: seconds until the default is booted, `-1` for never; `None` where it cannot be known.
    pub timeout: Option<String>,
}

/// A longer value is unknown: none that names an entry is, and a variable that is made of itself twice would double
/// with each line.
const MAX_VALUE: usize = 4096;

/// A variable's value; `None` is unknown.
type Value = Option<String>;
type Variables = BTreeMap<String, Value>;

/// Evaluates `text`, the content of grub.cfg, with the variables of grubenv.
///
/// # Errors
/// [`BadScript`].
pub fn read(text: &str, grubenv: &BTreeMap<String, String>) -> Result<Menu, BadScript> {
    let nodes = script::parse(text)?;
    let mut variables: Variables = BTreeMap::new();
    for name in ["default", "next_entry", "saved_entry", "prev_saved_entry", "recordfail"] {
        variables.insert(name.into(), Some(String::new()));
    }
    variables.extend(grubenv.iter().map(|(k, v)| (k.clone(), Some(v.clone()))));
    let mut entries = Vec::new();
    run(&nodes, &mut variables, &mut entries, false);
    let mut value = |name| variables.remove(name).flatten();
    Ok(Menu { entries, default: value("default"), timeout: value("timeout") })
}

fn run(nodes: &[Node], variables: &mut Variables, entries: &mut Vec<Entry>, uncertain: bool) {
    for node in nodes {
        match node {
            Node::Command(words) => assign(words, variables),
            Node::Menu(words, body) => entries.push(entry(words, body, variables, uncertain)),
            Node::Loop(body) => {
                let before = variables.clone();
                run(body, variables, entries, true);
                merge(variables, &before);
            }
            Node::If(branches, otherwise) => {
                let mut results = Vec::new();
                let mut certain = None;
                for (condition, body) in branches {
                    match test(condition, variables) {
                        Some(false) => continue,
                        Some(true) => {
                            certain = Some(body);
                            break;
                        }
                        None => {
                            let mut branch = variables.clone();
                            run(body, &mut branch, entries, true);
                            results.push(branch);
                        }
                    }
                }
                run(certain.unwrap_or(otherwise), variables, entries, uncertain || !results.is_empty());
                results.iter().for_each(|r| merge(variables, r));
            }
        }
    }
}

/// Keeps what both agree on.
fn merge(variables: &mut Variables, other: &Variables) {
    for name in other.keys() {
        variables.entry(name.clone()).or_insert(None);
    }
    for (name, value) in variables {
        if other.get(name) != Some(value) {
            *value = None;
        }
    }
}

fn expand(word: &Word, variables: &Variables) -> Value {
    word.parts.iter().try_fold(String::new(), |text, part| {
        let next = match part {
            Part::Text(t) => t,
            Part::Variable(name) => variables.get(name)?.as_ref()?,
        };
        (text.len() + next.len() <= MAX_VALUE).then(|| text + next)
    })
}

/// `set a=b` and `a=b`.
fn assign(words: &[Word], variables: &mut Variables) {
    let word = match words {
        [set, word] if set.plain() == Some("set") => word,
        [word] => word,
        _ => return,
    };
    // The name and its `=` are plain text; only the value may hold variables.
    let Some(Part::Text(first)) = word.parts.first() else { return };
    let Some((name, rest)) = first.split_once('=') else { return };
    let mut value = word.clone();
    value.parts[0] = Part::Text(rest.into());
    let value = expand(&value, variables);
    variables.insert(name.into(), value);
}

/// The outcome of a condition; `None` where it cannot be known.
fn test(condition: &[Node], variables: &Variables) -> Option<bool> {
    let [Node::Command(words)] = condition else { return None };
    let arguments = match words.split_first() {
        Some((name, [arguments @ .., last])) if name.plain() == Some("[") && last.plain() == Some("]") => arguments,
        Some((name, arguments)) if name.plain() == Some("test") => arguments,
        _ => return None,
    };
    match arguments {
        [value] => Some(!expand(value, variables)?.is_empty()),
        [operator, value] => match operator.plain()? {
            "-n" => Some(!expand(value, variables)?.is_empty()),
            "-z" => Some(expand(value, variables)?.is_empty()),
            _ => None,
        },
        [a, operator, b] => {
            let same = || Some(expand(a, variables)? == expand(b, variables)?);
            match operator.plain()? {
                "=" | "==" => same(),
                "!=" => same().map(|s| !s),
                _ => None,
            }
        }
        _ => None,
    }
}

fn entry(words: &[Word], body: &[Node], variables: &Variables, uncertain: bool) -> Entry {
    let mut entry = Entry { uncertain, ..Entry::default() };
    let mut title = None;
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        // grub-mkconfig writes --id through this variable, which is empty only in GRUB before 2.00.
        let id_option = matches!(word.parts.as_slice(), [Part::Variable(v)] if v == "menuentry_id_option");
        match word.plain() {
            Some("--id") => entry.id = rest.next().and_then(|w| expand(w, variables)),
            _ if id_option => entry.id = rest.next().and_then(|w| expand(w, variables)),
            Some("--class" | "--users" | "--hotkey" | "--source") => drop(rest.next()),
            Some(option) if option.starts_with("--") => {}
            _ if title.is_none() => title = expand(word, variables),
            _ => {}
        }
    }
    entry.title = title.unwrap_or_default();
    if words.first().and_then(Word::plain) == Some("submenu") {
        let mut children = Vec::new();
        run(body, &mut variables.clone(), &mut children, false);
        entry.children = Some(children);
    } else {
        look_into(body, variables, &mut entry);
    }
    entry
}

/// Finds what a menu entry's commands boot.
fn look_into(body: &[Node], variables: &Variables, entry: &mut Entry) {
    for node in body {
        match node {
            Node::Command(words) => match words.first().and_then(Word::plain) {
                Some("savedefault") => entry.saves_default = true,
                Some("linux" | "linux16" | "linuxefi") if entry.release.is_none() => {
                    let path = words.get(1).and_then(|w| expand(w, variables)).unwrap_or_default();
                    entry.release = release_of(&path);
                    let single = |w: &Word| matches!(w.plain(), Some("single" | "recovery"));
                    entry.recovery = words.iter().any(single) || entry.title.contains("recovery mode");
                }
                _ => {}
            },
            Node::If(branches, otherwise) => {
                branches.iter().for_each(|(_, body)| look_into(body, variables, entry));
                look_into(otherwise, variables, entry);
            }
            Node::Loop(_) | Node::Menu(..) => {}
        }
    }
}

/// `6.12.94-amd64` for `/boot/vmlinuz-6.12.94-amd64`, with the same prefixes as 10_linux.
fn release_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let release = ["vmlinuz-", "vmlinux-", "kernel-"].iter().find_map(|p| file.strip_prefix(p))?;
    check_release(release).is_ok().then(|| release.to_string())
}

impl Menu {
    /// The entry that boots by default, below the submenus that lead to it; `None` where that cannot be known.
    pub fn boots(&self) -> Option<Vec<&Entry>> {
        self.named(self.default.as_deref()?)
    }

    /// Release of what boots by default; `None` where that is no Linux kernel or cannot be known.
    pub fn release(&self) -> Option<String> {
        self.boots()?.last()?.release.clone()
    }

    /// The entry that boots where `default` is the default.
    ///
    /// As GRUB does it (grub-core/normal/menu.c): an index, a title or an id, for each level; what is not found, and
    /// what is missing at the end of the path, is the first entry.
    fn named(&self, default: &str) -> Option<Vec<&Entry>> {
        let mut steps = steps(default).into_iter();
        let (mut entries, mut path) = (&self.entries, Vec::new());
        loop {
            let step = steps.next().unwrap_or_default();
            let index = match step.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default() {
                "" => entries.iter().position(|e| e.title == step || e.id.as_deref() == Some(&step)),
                digits => digits.parse().ok(),
            };
            let index = index.filter(|i| *i < entries.len());
            // An id that is found is the one, an index counts the entries before it as well.
            let by_name = index.is_some() && !step.starts_with(|c: char| c.is_ascii_digit());
            let index = index.unwrap_or(0);
            if entries.iter().take(index + 1).skip(if by_name { index } else { 0 }).any(|e| e.uncertain) {
                return None;
            }
            let entry = entries.get(index)?;
            path.push(entry);
            match &entry.children {
                Some(children) => entries = children,
                None => return Some(path),
            }
        }
    }

    /// The entry of `release`, as `default` would name it: ids, with `>` between the levels. Its own entry, not the
    /// one on top that always boots the newest kernel, and not the one for repairs. Several entries may have one id:
    /// only a name by which GRUB finds this kernel is one.
    pub fn entry_of(&self, release: &str) -> Option<String> {
        let boots = |path: &String| {
            self.named(path).and_then(|e| e.last().copied()).is_some_and(|e| e.release.as_deref() == Some(release))
        };
        fn find(entries: &[Entry], above: &str, release: &str, boots: &dyn Fn(&String) -> bool) -> Option<String> {
            entries.iter().filter(|e| !e.uncertain).find_map(|e| {
                // GRUB would take an id that begins with a digit for an index.
                let id = e.id.as_deref().filter(|id| !id.starts_with(|c: char| c.is_ascii_digit()))?;
                let path = format!("{above}{}", id.replace('>', ">>"));
                match &e.children {
                    Some(children) => find(children, &format!("{path}>"), release, boots),
                    None => {
                        let own = e.release.as_deref() == Some(release) && !e.recovery && id.contains(release);
                        Some(path).filter(|path| own && boots(path))
                    }
                }
            })
        }
        find(&self.entries, "", release, &boots)
    }

    /// Whether any entry makes itself the saved one.
    pub fn saves_default(&self) -> bool {
        fn any(entries: &[Entry]) -> bool {
            entries.iter().any(|e| e.saves_default || e.children.as_deref().is_some_and(any))
        }
        any(&self.entries)
    }
}

/// The levels of a path: `>` stands between them, `>>` is a `>`.
fn steps(path: &str) -> Vec<String> {
    let mut steps = vec![String::new()];
    let mut input = path.chars().peekable();
    while let Some(c) = input.next() {
        match (c, steps.last_mut()) {
            ('>', _) if input.peek() != Some(&'>') => steps.push(String::new()),
            (c, Some(last)) => {
                last.push(c);
                if c == '>' {
                    input.next();
                }
            }
            _ => {}
        }
    }
    steps
}

#[cfg(test)]
#[path = "menu_tests.rs"]
mod tests;
