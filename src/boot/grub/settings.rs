//! GRUB's settings, read as grub-mkconfig reads them. They are shell files, which nothing but a shell understands.

use std::path::Path;

use anyhow::{Context, Result};

use crate::command;
use crate::paths::Paths;

/// Prints GRUB_DEFAULT. `$1` is /etc/default/grub, `$2` the directory beside it, `$3` the file in it that is left out, and
/// `$4` is what is read in its place. Whatever the files themselves print is no answer.
const SCRIPT: &str = r#"
exec 3>&1 >&2
[ ! -e "$1" ] || . "$1"
for kup_file in "$2"/*.cfg; do
    [ "$kup_file" = "$3" ] || [ ! -e "$kup_file" ] || . "$kup_file"
done
eval "$4"
printf %s "${GRUB_DEFAULT:-0}" >&3
"#;

/// What GRUB_DEFAULT would be if `ours`, the file that sorts last, were not there, or held `text`.
///
/// # Errors
/// When a file cannot be read as a shell would.
pub fn default_with(paths: &Paths, ours: &Path, text: Option<&str>) -> Result<String> {
    let path = |path: &str| paths.at(path).display().to_string();
    let (file, directory) = (path("/etc/default/grub"), path("/etc/default/grub.d"));
    let ours = ours.display().to_string();
    let arguments = ["-c", SCRIPT, "sh", &file, &directory, &ours, text.unwrap_or_default()];
    command::run(Path::new("/bin/sh"), &arguments).context("cannot read GRUB's settings")
}
