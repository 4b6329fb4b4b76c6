//! Unified kernel images (type #2 entries): what a PE file's sections say of the kernel in it
//! (uapi-group.org/specifications/specs/unified_kernel_image).

use std::io::{Read, Seek, SeekFrom};

use crate::kernel::check_release;

/// No section that is read here is longer; what claims to be is left out.
const MOST: u32 = 64 << 10;

/// What the menu needs of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `.uname`.
    pub release: Option<String>,
    /// From `.osrel`.
    pub version: Option<String>,
    /// From `.osrel`.
    pub sort_key: Option<String>,
}

/// Reads an image; `None` where systemd-boot would not show it.
pub fn read(file: &mut (impl Read + Seek)) -> Option<Image> {
    let sections = sections(file)?;
    let text = |name: &[u8]| {
        let content = &sections.iter().find(|(n, _)| n == name)?.1;
        Some(String::from_utf8_lossy(content).trim_end_matches(['\0', '\n']).to_string())
    };
    let release = text(b".uname").filter(|r| check_release(r).is_ok());
    let os_release = text(b".osrel")?;
    let field = |names: &[&str]| names.iter().find_map(|name| value(&os_release, name));
    // As bootspec_pick_name_version_sort_key() in systemd's src/fundamental/bootspec-fundamental.c.
    field(&["PRETTY_NAME", "IMAGE_ID", "NAME", "ID"])?;
    let version = field(&["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"]);
    Some(Image { release, version, sort_key: field(&["IMAGE_ID", "ID"]) })
}

/// A value of os-release(5).
fn value(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches(['"', '\'']).to_string()).filter(|v| !v.is_empty())
}

/// The small sections before the first `.profile`: those are the ones that are in force without a choice.
fn sections(file: &mut (impl Read + Seek)) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let dos = at(file, 0, 64)?;
    let pe = u64::from(u32_at(&dos, 60)?);
    let header = at(file, pe, 24)?;
    if !dos.starts_with(b"MZ") || !header.starts_with(b"PE\0\0") {
        return None;
    }
    let (count, optional) = (u16_at(&header, 6)?, u16_at(&header, 20)?);
    let table = at(file, pe + 24 + u64::from(optional), usize::from(count) * 40)?;
    let mut found = Vec::new();
    for entry in table.chunks_exact(40) {
        let name: Vec<u8> = entry[..8].iter().copied().take_while(|c| *c != 0).collect();
        if name == b".profile" {
            break;
        }
        let size = u32_at(entry, 8)?.min(u32_at(entry, 16)?);
        if size <= MOST {
            found.push((name, at(file, u64::from(u32_at(entry, 20)?), size as usize)?));
        }
    }
    Some(found)
}

fn at(file: &mut (impl Read + Seek), offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(offset)).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

#[cfg(test)]
pub mod testing {
    //! Images that are just enough of one.

    /// A PE file with these sections.
    pub fn image(sections: &[(&str, &str)]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..2].copy_from_slice(b"MZ");
        file[60] = 64;
        file.extend(b"PE\0\0\x64\x86");
        file.extend((sections.len() as u16).to_le_bytes());
        file.extend([0; 16]);
        let mut data = file.len() + sections.len() * 40;
        for (name, content) in sections {
            let mut entry = [0; 40];
            entry[..name.len()].copy_from_slice(name.as_bytes());
            for (at, value) in [(8, content.len()), (16, content.len() + 3), (20, data)] {
                entry[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
            }
            data += content.len() + 3;
            file.extend(entry);
        }
        for (_, content) in sections {
            file.extend(content.bytes().chain([0; 3]));
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    const OS: &str = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID=\"13\"\nID=debian\n";

    #[test]
    fn sections_of_an_image() {
        let good = testing::image(&[(".linux", "MZ"), (".osrel", OS), (".uname", "6.12.107+deb13-amd64\0")]);
        let image = read(&mut Cursor::new(&good)).unwrap();
        assert_eq!(image.release.as_deref(), Some("6.12.107+deb13-amd64"));
        assert_eq!((image.version.as_deref(), image.sort_key.as_deref()), (Some("13"), Some("debian")));
        for end in 0..good.len() - 3 {
            assert_eq!(read(&mut Cursor::new(&good[..end])), None, "cut off at {end}");
        }
        let read = |sections: &[_]| read(&mut Cursor::new(testing::image(sections)));
        assert_eq!(read(&[(".linux", "MZ"), (".uname", "6.1")]), None, "without os-release it is not shown");
        assert_eq!(read(&[(".osrel", OS), (".profile", "ID=x"), (".uname", "6.1")]).unwrap().release, None);
        assert_eq!(read(&[(".osrel", OS), (".uname", "../6.1")]).unwrap().release, None);
    }

    proptest! {
        #[test]
        fn any_file(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&mut Cursor::new(bytes));
        }

        #[test]
        fn any_damage(at in 0..400_usize, byte in any::<u8>()) {
            let mut file = testing::image(&[(".osrel", OS), (".uname", "6.1")]);
            let at = at % file.len();
            file[at] = byte;
            let _ = read(&mut Cursor::new(file));
        }
    }
}
