//! Runs the hooks of `packaging/hooks` on a directory tree, with no bus and with a real kupd on one.

mod private_bus;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kup::kernel::Staged;
use kup::kernel::cmdline::{self, Direction, Ours};
use kup::paths::Paths;
use private_bus::Bench;
use tempfile::TempDir;

const RELEASE: &str = "6.12.107+deb13-cloud-amd64";
const CONFIGURE: &str = "'configure' '6.12.94-1'";

fn hooks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/hooks")
}

/// A system with kup installed; `booted` is one that systemd runs on.
fn system(booted: bool) -> (TempDir, Paths) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::below(dir.path());
    install(&paths, booted);
    (dir, paths)
}

fn install(paths: &Paths, booted: bool) {
    for (name, place) in [("kernel-hook", "/usr/libexec/kup"), ("apt-hint", "/usr/libexec/kup")] {
        fs::create_dir_all(paths.at(place)).unwrap();
        fs::copy(hooks().join(name), paths.at(place).join(name)).unwrap();
    }
    fs::create_dir_all(paths.at("/usr/bin")).unwrap();
    fs::copy("/bin/true", paths.at("/usr/bin/kup")).unwrap();
    if booted {
        fs::create_dir_all(paths.at("/run/systemd/system")).unwrap();
    }
}

fn run(paths: &Paths, hook: &str, args: &[&str], maintainer_script: Option<&str>) -> Output {
    run_on("unix:path=/nonexistent/bus", paths, hook, args, maintainer_script)
}

fn run_on(bus: &str, paths: &Paths, hook: &str, args: &[&str], maintainer_script: Option<&str>) -> Output {
    let mut command = Command::new("sh");
    command.arg(hooks().join(hook)).args(args).env_remove("DEB_MAINT_PARAMS");
    command.env("DPKG_ROOT", paths.at("/")).env("DBUS_SYSTEM_BUS_ADDRESS", bus);
    if let Some(params) = maintainer_script {
        command.env("DEB_MAINT_PARAMS", params);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{hook} {args:?}: {output:?}");
    output
}

fn quiet(output: Output) {
    assert_eq!((output.stdout.as_slice(), String::from_utf8_lossy(&output.stderr).as_ref()), (&b""[..], ""));
}

fn pending(paths: &Paths) -> Vec<String> {
    let Ok(entries) = fs::read_dir(paths.pending_hooks()) else { return Vec::new() };
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

fn hint(paths: &Paths) -> PathBuf {
    paths.run_dir().join("hint")
}

#[test]
fn a_stamp_stays_where_nobody_answers() {
    let (_dir, paths) = system(true);
    for _ in 0..2 {
        quiet(run(&paths, "kernel-postinst", &[RELEASE, "/boot/vmlinuz"], Some(CONFIGURE)));
        assert_eq!(pending(&paths), [RELEASE]);
        assert_eq!(fs::read_to_string(hint(&paths)).unwrap().trim(), RELEASE);
    }
    for _ in 0..2 {
        quiet(run(&paths, "kernel-postrm", &[RELEASE, "/boot/vmlinuz"], Some("'remove'")));
        assert!(pending(&paths).is_empty());
        assert!(!hint(&paths).exists());
    }
}

#[test]
fn kernel_install_does_the_same() {
    let (_dir, paths) = system(true);
    quiet(run(&paths, "95-kup.install", &["add", RELEASE, "/boot/x", "/boot/vmlinuz"], None));
    assert_eq!(pending(&paths), [RELEASE]);
    quiet(run(&paths, "95-kup.install", &["inspect", RELEASE], None));
    quiet(run(&paths, "95-kup.install", &["remove", RELEASE, "/boot/x"], None));
    assert!(pending(&paths).is_empty());
}

#[test]
fn an_image_that_is_being_built_gets_the_stamp_alone() {
    let (_dir, paths) = system(false);
    quiet(run(&paths, "kernel-postinst", &[RELEASE], None));
    assert_eq!(pending(&paths), [RELEASE]);
    assert!(!hint(&paths).exists());
}

#[test]
fn only_the_right_calls_count() {
    let (_dir, paths) = system(true);
    for params in ["'abort-upgrade' '6.12.94-1'", "'triggered' 'x'"] {
        quiet(run(&paths, "kernel-postinst", &[RELEASE], Some(params)));
        assert!(pending(&paths).is_empty(), "{params}");
    }
    quiet(run(&paths, "kernel-postinst", &[RELEASE], Some(CONFIGURE)));
    for params in ["'upgrade' '6.12.94-2'", "'purge'"] {
        quiet(run(&paths, "kernel-postrm", &[RELEASE], Some(params)));
        assert_eq!(pending(&paths), [RELEASE], "{params}");
    }
}

/// As kupd checks it, since the release becomes a file name.
#[test]
fn bad_releases_are_named_and_ignored() {
    let (_dir, paths) = system(true);
    for bad in ["", "..", "../../etc/x", "6.12 x", "6.12\n", "$(reboot)"] {
        assert!(kup::kernel::check_release(bad).is_err(), "{bad:?}");
        let output = run(&paths, "kernel-postinst", &[bad], Some(CONFIGURE));
        assert!(String::from_utf8_lossy(&output.stderr).contains("not a kernel release"), "{bad:?}: {output:?}");
        assert!(pending(&paths).is_empty(), "{bad:?}");
    }
}

#[test]
fn a_removed_kernel_is_no_target() {
    let (_dir, paths) = system(true);
    Staged::now(RELEASE).unwrap().write(&paths).unwrap();
    quiet(run(&paths, "kernel-postrm", &["6.12.94"], Some("'remove'")));
    assert!(Staged::read(&paths).unwrap().is_some(), "another kernel was removed");
    quiet(run(&paths, "kernel-postrm", &[RELEASE], Some("'remove'")));
    assert_eq!(Staged::read(&paths).unwrap(), None);
}

/// kernel-install copies /proc/cmdline into entries; what kup wrote there for one switch must not stay.
#[test]
fn entries_are_free_of_our_words() {
    let (_dir, paths) = system(true);
    let entries = paths.at("/boot/efi/loader/entries");
    fs::create_dir_all(&entries).unwrap();
    let add = |file: &str, options: &str| {
        let entry = entries.join(file);
        let text = |options: &str| format!("title kup.txn=5a kup.end\noptions    {options}\nlinux  /token/linux\n");
        fs::write(&entry, text(options)).unwrap();
        let mut hook = Command::new("sh");
        hook.arg(hooks().join("95-kup.install")).args(["add", RELEASE, "/boot/efi/token"]);
        hook.env("DPKG_ROOT", paths.at("/")).env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus");
        hook.env("KERNEL_INSTALL_LAYOUT", "bls").env("KERNEL_INSTALL_ENTRY_TOKEN", "token");
        quiet(hook.env("KERNEL_INSTALL_BOOT_ROOT", paths.at("/boot/efi")).output().unwrap());
        let now = fs::read_to_string(&entry).unwrap();
        assert_eq!(fs::read_dir(&entries).unwrap().count(), 1);
        fs::remove_file(entry).unwrap();
        now.strip_prefix("title kup.txn=5a kup.end\noptions    ").unwrap().lines().next().unwrap().to_string()
    };
    let (plain, counted) = (format!("token-{RELEASE}.conf"), format!("token-{RELEASE}+3.conf"));
    let id = "5a".parse().unwrap();
    for (direction, running, file) in
        [(Direction::There, "root=/dev/vda1 ro", &plain), (Direction::Back, "ro -- single", &counted)]
    {
        let ours = Ours { direction, id: &id, pid_floor: 70_001, extra: &["panic=10"] };
        let line = cmdline::make(running, Path::new("/boot/vmlinuz"), &ours).unwrap();
        assert!(line.contains("panic=10"), "{line}");
        assert_eq!(add(file, &line), running);
        assert_eq!(add(file, &format!("{line} systemd.machine_id=1")), format!("{running} systemd.machine_id=1"));
        let other = format!("token-{RELEASE}-rt.conf");
        assert_eq!(add(&other, &line), line, "another kernel's entry");
    }
    assert_eq!(add(&plain, "ro quiet"), "ro quiet");
}

#[test]
fn nothing_fails_the_package_manager() {
    // Removed and not purged: the files in /etc are all that is left.
    let (_dir, paths) = system(true);
    fs::remove_dir_all(paths.at("/usr/libexec")).unwrap();
    fs::remove_file(paths.at("/usr/bin/kup")).unwrap();
    quiet(run(&paths, "kernel-postinst", &[RELEASE], Some(CONFIGURE)));
    quiet(run(&paths, "kernel-postrm", &[RELEASE], Some("'remove'")));
    quiet(run(&paths, "95-kup.install", &["add", RELEASE], None));
    assert!(pending(&paths).is_empty());

    // Nowhere to leave a stamp.
    let (_dir, paths) = system(true);
    fs::create_dir_all(paths.at("/var/lib")).unwrap();
    fs::write(paths.at("/var/lib/kup"), "a file").unwrap();
    let output = run(&paths, "kernel-postinst", &[RELEASE], Some(CONFIGURE));
    assert!(String::from_utf8_lossy(&output.stderr).contains("kup: cannot remember kernel"), "{output:?}");
    run(&paths, "kernel-postrm", &[RELEASE], Some("'remove'"));
}

#[test]
fn apt_ends_with_one_line() {
    let (_dir, paths) = system(true);
    quiet(run(&paths, "apt-hint", &[], None));
    run(&paths, "kernel-postinst", &[RELEASE], Some(CONFIGURE));
    let output = run(&paths, "apt-hint", &[], None);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with(&format!("kup: kernel {RELEASE} is staged; 'kup update' switches to it")), "{said}");
    quiet(run(&paths, "apt-hint", &[], None));

    run(&paths, "kernel-postinst", &[RELEASE], Some(CONFIGURE));
    fs::remove_file(paths.at("/usr/bin/kup")).unwrap();
    quiet(run(&paths, "apt-hint", &[], None));
    assert!(!hint(&paths).exists());
}

#[test]
fn kupd_is_told() {
    let bench = Bench::new(|_, unit| panic!("{unit} is not to be started"));
    let (bus, paths) = (bench.address.as_str(), &bench.paths);
    install(paths, true);
    let staged = || Staged::read(paths).unwrap().map(|s| s.release);
    for _ in 0..2 {
        quiet(run_on(bus, paths, "kernel-postinst", &["6.12.107", "/boot/vmlinuz"], Some(CONFIGURE)));
        assert_eq!(staged().as_deref(), Some("6.12.107"));
        assert!(pending(paths).is_empty());
    }
    let said = run_on(bus, paths, "apt-hint", &[], None).stdout;
    assert_eq!(
        String::from_utf8(said).unwrap(),
        "kup: kernel 6.12.107 is staged; 'kup update' switches to it and keeps 1 marked service running\n"
    );
    quiet(run_on(bus, paths, "kernel-postrm", &["6.12.107", "/boot/vmlinuz"], Some("'remove'")));
    assert_eq!(staged(), None);

    // A kernel that kupd does not find is not forgotten: the stamp stays until it is there.
    quiet(run_on(bus, paths, "kernel-postinst", &["6.12.108", "/boot/vmlinuz"], Some(CONFIGURE)));
    assert_eq!((staged(), pending(paths)), (None, vec!["6.12.108".to_string()]));
    quiet(run_on(bus, paths, "apt-hint", &[], None));
}

#[test]
fn apt_says_nothing_where_the_update_begins_by_itself() {
    let bench = Bench::new(|_, _| private_bus::DONE);
    let (bus, paths) = (bench.address.as_str(), &bench.paths);
    install(paths, true);
    private_bus::write(paths, "/etc/kup/kup.toml", "Mode = \"automatic\"\n");
    quiet(run_on(bus, paths, "kernel-postinst", &["6.12.107", "/boot/vmlinuz"], Some(CONFIGURE)));
    assert_eq!(bench.orders(), ["start kup-automatic.service"]);
    quiet(run_on(bus, paths, "apt-hint", &[], None));
    assert!(!hint(paths).exists());
}

/// As apt itself runs it: through its own parser, with kup there and half-removed.
#[test]
fn apt_accepts_its_configuration() {
    let file = hooks().join("90kup");
    let Ok(output) = Command::new("apt-config").arg("dump").env("APT_CONFIG", &file).output() else { return };
    let dump = String::from_utf8(output.stdout).unwrap();
    let prefix = "DPkg::Post-Invoke:: \"";
    let line = dump.lines().filter_map(|l| l.strip_prefix(prefix)).find(|l| l.contains("kup")).unwrap();
    let command = line.strip_suffix("\";").unwrap();
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
}

#[test]
fn the_shell_has_no_complaints() {
    let scripts = ["kernel-postinst", "kernel-postrm", "95-kup.install", "kernel-hook", "apt-hint"];
    for script in scripts {
        assert!(Command::new("sh").arg("-n").arg(hooks().join(script)).status().unwrap().success(), "{script}");
    }
    let all = scripts.map(|s| hooks().join(s));
    let args = [OsStr::new("--shell=sh")].into_iter().chain(all.iter().map(|p| p.as_os_str()));
    match Command::new("shellcheck").args(args).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(e) => eprintln!("shellcheck did not run: {e}"),
    }
}
