//! The messages of CRIU's RPC that kup uses, by their numbers in CRIU's `images/rpc.proto`. Fields that kup does not
//! use are left out: protobuf skips what it does not know.

use prost::{Enumeration, Message};

/// What is asked of CRIU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Action {
    /// The answer to a message that CRIU did not understand.
    Empty = 0,
    /// Checkpoint a process tree.
    Dump = 1,
    /// Bring one back.
    Restore = 2,
    /// CRIU has reached a point where the caller may do something, and waits.
    Notify = 6,
    /// Copy the memory of a process tree that goes on.
    SinglePreDump = 13,
}

/// How packets of connections are held back while their sockets are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum LockMethod {
    /// A shell and iptables for each connection.
    Iptables = 1,
    /// One table of nftables.
    Nftables = 2,
    /// The caller does it.
    Skip = 3,
}

/// Where memory goes instead of the images.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PageServerInfo {
    /// The number that a socket has in the CRIU process. Only over `swrk`.
    #[prost(int32, optional, tag = "4")]
    pub fd: Option<i32>,
}

/// A descriptor of CRIU's that stands for a dumped file.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct InheritFd {
    /// `file[MNT:INO]`, `socket:[INO]`, …
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// The number that it has in the CRIU process.
    #[prost(int32, required, tag = "2")]
    pub fd: i32,
}

/// Options of a dump or a restore; the same as on CRIU's command line (criu(8)).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Options {
    /// Number of the images directory's descriptor *in the process that made the socket*.
    #[prost(int32, required, tag = "1")]
    pub images_dir_fd: i32,
    /// Root of the tree to dump.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    /// Let the tasks go on after the dump.
    #[prost(bool, optional, tag = "3")]
    pub leave_running: Option<bool>,
    /// Datagram unix sockets may have peers outside the tree.
    #[prost(bool, optional, tag = "4")]
    pub ext_unix_sk: Option<bool>,
    /// Dump and restore established TCP connections.
    #[prost(bool, optional, tag = "5")]
    pub tcp_established: Option<bool>,
    /// The root task is not a session leader.
    #[prost(bool, optional, tag = "7")]
    pub shell_job: Option<bool>,
    /// Dump and restore file locks.
    #[prost(bool, optional, tag = "8")]
    pub file_locks: Option<bool>,
    /// 0 to 4.
    #[prost(int32, optional, tag = "9")]
    pub log_level: Option<i32>,
    /// A file name in the work directory.
    #[prost(string, optional, tag = "10")]
    pub log_file: Option<String>,
    /// See [`PageServerInfo`].
    #[prost(message, optional, tag = "11")]
    pub page_server: Option<PageServerInfo>,
    /// Ask for [`Action::Notify`] messages.
    #[prost(bool, optional, tag = "12")]
    pub notify_scripts: Option<bool>,
    /// The images of the round before, relative to the images directory.
    #[prost(string, optional, tag = "14")]
    pub parent_img: Option<String>,
    /// Have the kernel mark pages that change from here on, and leave out those that have not since the round before.
    #[prost(bool, optional, tag = "15")]
    pub track_mem: Option<bool>,
    /// Where the log goes; numbered as `images_dir_fd` is.
    #[prost(int32, optional, tag = "17")]
    pub work_dir_fd: Option<i32>,
    /// Deleted files that have another name somewhere are linked to one.
    #[prost(bool, optional, tag = "18")]
    pub link_remap: Option<bool>,
    /// Find paths of inotify watches by search where the kernel does not tell them.
    #[prost(bool, optional, tag = "21")]
    pub force_irmap: Option<bool>,
    /// See [`InheritFd`]. Only over `swrk`.
    #[prost(message, repeated, tag = "27")]
    pub inherit_fd: Vec<InheritFd>,
    /// 0 is "ignore": tasks stay in the cgroup that CRIU is in.
    #[prost(int32, optional, tag = "34")]
    pub manage_cgroups_mode: Option<i32>,
    /// Largest deleted file that goes into the images, in bytes.
    #[prost(uint32, optional, tag = "35")]
    pub ghost_limit: Option<u32>,
    /// Things that the caller brings back itself: `file[MNT:INO]`, `unix[INO]`.
    #[prost(string, repeated, tag = "37")]
    pub external: Vec<String>,
    /// Seconds that freezing may take.
    #[prost(uint32, optional, tag = "45")]
    pub timeout: Option<u32>,
    /// Leave memory that can be filled on demand to who listens on `lazy-pages.socket` in the work directory.
    #[prost(bool, optional, tag = "48")]
    pub lazy_pages: Option<bool>,
    /// See [`LockMethod`].
    #[prost(enumeration = "LockMethod", optional, tag = "64")]
    pub network_lock: Option<i32>,
    /// Leave restored tasks stopped.
    #[prost(bool, optional, tag = "69")]
    pub leave_stopped: Option<bool>,
}

/// A request, or the answer to a notification.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Request {
    /// What to do.
    #[prost(enumeration = "Action", required, tag = "1")]
    pub action: i32,
    /// How; with a notification's answer: what it adds.
    #[prost(message, optional, tag = "2")]
    pub options: Option<Options>,
    /// Whether CRIU is to go on.
    #[prost(bool, optional, tag = "3")]
    pub notify_success: Option<bool>,
}

/// What CRIU restored.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Restored {
    /// The root task.
    #[prost(int32, required, tag = "1")]
    pub pid: i32,
}

/// Where CRIU is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Notification {
    /// `pre-dump`, `post-dump`, `query-ext-files`, `pre-resume`, …
    #[prost(string, optional, tag = "1")]
    pub script: Option<String>,
    /// The root task, with some.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
}

/// What CRIU says.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Response {
    /// What it answers; [`Action::Notify`] where it asks.
    #[prost(enumeration = "Action", required, tag = "1")]
    pub action: i32,
    /// Whether it worked.
    #[prost(bool, required, tag = "2")]
    pub success: bool,
    /// With a restore.
    #[prost(message, optional, tag = "4")]
    pub restore: Option<Restored>,
    /// With a notification.
    #[prost(message, optional, tag = "5")]
    pub notify: Option<Notification>,
    /// An errno that tells more, such as EEXIST for a PID that is taken.
    #[prost(int32, optional, tag = "7")]
    pub cr_errno: Option<i32>,
    /// The first line of its log that is an error. A string by its declaration; but it may quote a path, so any bytes.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub cr_errmsg: Option<Vec<u8>>,
}
