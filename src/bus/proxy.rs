//! kupd as its clients see it.

// The interfaces' own documentation is in dbus/*.xml; a copy here would be one more to keep in step.
#![expect(missing_docs)]

use zbus::{OwnedObjectPath, Variant};

use super::types::{CheckAnswer, UnitEntry};

/// Options of a method.
pub type Options<'a> = std::collections::HashMap<&'a str, Variant<'a>>;

/// `org.kup1.Manager`; `dbus/org.kup1.Manager.xml` says what its members do.
#[zbus::proxy(interface = "org.kup1.Manager", default_service = "org.kup1", default_path = "/org/kup1")]
pub trait Manager {
    #[zbus(allow_interactive_auth)]
    fn preserve(&self, unit: &str, options: &Options<'_>) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn release(&self, unit: &str) -> zbus::Result<String>;
    fn list_units(&self) -> zbus::Result<(Vec<UnitEntry>, Vec<String>)>;
    #[zbus(allow_interactive_auth)]
    fn check(&self, units: &[&str], options: &Options<'_>) -> zbus::Result<CheckAnswer>;
    #[zbus(allow_interactive_auth)]
    fn update(&self, options: &Options<'_>) -> zbus::Result<OwnedObjectPath>;
    #[zbus(allow_interactive_auth)]
    fn abort(&self) -> zbus::Result<()>;
    fn history(&self) -> zbus::Result<Vec<String>>;
    fn kernel_installed(&self, release: &str) -> zbus::Result<()>;
    fn kernel_removed(&self, release: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    fn update_new(&self, update: OwnedObjectPath) -> zbus::Result<()>;
    #[zbus(signal)]
    fn update_removed(&self, update: OwnedObjectPath, result: &str) -> zbus::Result<()>;

    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn staged_kernel(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn running_kernel(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn current_update(&self) -> zbus::Result<OwnedObjectPath>;
    #[zbus(property)]
    fn mode(&self) -> zbus::Result<String>;
}

/// `org.kup1.Update`; `dbus/org.kup1.Update.xml` says what its members do.
#[zbus::proxy(interface = "org.kup1.Update", default_service = "org.kup1")]
pub trait Update {
    #[zbus(property)]
    fn id(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn reason(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn source(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn target(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn stage_only(&self) -> zbus::Result<bool>;
    #[zbus(property)]
    fn units(&self) -> zbus::Result<Vec<(String, String, String)>>;
    #[zbus(property)]
    fn phases(&self) -> zbus::Result<Vec<(String, u64, u64)>>;
    #[zbus(property)]
    fn outdated(&self) -> zbus::Result<Vec<(String, Vec<String>)>>;
}
