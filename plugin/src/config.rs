//! Flags and `config.toml`; a flag wins over the file, the file over the defaults.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use d4c_image::delta::TrustedKey;
use d4c_image::registry::{PARTIAL_BYTES, RegistryOptions};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::mounts::check_root;
pub use crate::space::{Reserve, Space};
use crate::space::{parse_memory, parse_size};

const DEFAULT_CONFIG: &str = "/etc/di3fs/config.toml";
const DEFAULT_CONTENT: &str = "/var/lib/containerd/io.containerd.content.v1.content";

/// For making contents, when nothing is said.
const MEMORY_BYTES: u64 = 256 << 20;
/// With less, large contents would take more than was said.
const LEAST_MEMORY_BYTES: u64 = 16 << 20;

fn memory(text: &str) -> std::result::Result<u64, String> {
    parse_memory(text, LEAST_MEMORY_BYTES)
}

/// containerd snapshotter of delta images
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "di3fs-snapshotter", version, args_override_self = true)]
pub struct Flags {
    /// Directory of metadata and snapshots [default: /var/lib/di3fs]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Socket of the Snapshots service, gRPC and ttrpc [default: /run/di3fs/snapshotter.sock]
    #[arg(long, value_name = "SOCK")]
    pub address: Option<PathBuf>,
    /// Socket for the command line [default: /run/di3fs/control.sock]
    #[arg(long, value_name = "SOCK")]
    pub control: Option<PathBuf>,
    /// Configuration file [default: /etc/di3fs/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How delta images are served [default: auto]
    #[arg(long, value_name = "ROUTE")]
    pub route: Option<Route>,
    /// Seconds from a load until contents that nobody opened are made in the background [default: 2]
    #[arg(long, value_name = "SECONDS")]
    pub finish_after: Option<u32>,
    /// When the layers of an image that is loaded are compared with their diff IDs [default: background]
    #[arg(long, value_name = "WHEN")]
    pub diff_ids: Option<DiffIds>,
    /// Whether contents that nobody opened are made in the background at all [default: true]
    #[arg(long, value_name = "BOOL")]
    pub prefetch: Option<bool>,
    /// Contents that can be made again and are not in use are given back when all have more [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub store_limit: Option<u64>,
    /// And when less than this is free on the disk, a size or a part of the disk [default: 5%]
    #[arg(long, value_name = "SIZE|N%")]
    pub store_reserve: Option<Reserve>,
    /// Memory for making contents, all that are being made together; 16MiB at least [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,
    /// Start without root as well, for tests: what is to be mounted or owned by others fails then
    #[arg(long, hide = true)]
    pub unprivileged: bool,
    /// Hold descriptors for the plugin at a socket; the plugin starts it
    #[arg(long, value_name = "SOCK", hide = true)]
    pub hold: Option<PathBuf>,
    /// containerd's socket, to which events are forwarded [default: /run/containerd/containerd.sock]
    #[arg(long, value_name = "SOCK")]
    pub containerd: Option<PathBuf>,
    /// error, warn, info, debug or trace, or a filter such as `di3fs_snapshotter=debug` [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// How delta images are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// The first of the others that this node can do.
    #[default]
    Auto,
    /// EROFS metadata over data-only layers.
    Erofs,
    /// The whole tree over FUSE, files passed through by the kernel.
    FusePassthrough,
    /// The whole tree over FUSE.
    Fuse,
    /// Everything made in advance, plain overlay.
    Overlay,
}

impl Route {
    /// The only route to try; none for the first that works.
    #[must_use]
    pub fn wanted(self) -> Option<di3fs::mount::Route> {
        match self {
            Self::Auto => None,
            Self::Erofs => Some(di3fs::mount::Route::Erofs),
            Self::FusePassthrough => Some(di3fs::mount::Route::FusePassthrough),
            Self::Fuse => Some(di3fs::mount::Route::Fuse),
            Self::Overlay => Some(di3fs::mount::Route::Overlay),
        }
    }
}

/// When the tars of an image's layers are made again and compared with their diff IDs. Each content is compared with its digest when it is
/// made, whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DiffIds {
    /// Before the load ends; all contents are made for it.
    Eager,
    /// After the contents that nobody opened were made. Where all is made in advance, before the load ends.
    #[default]
    Background,
    /// Never.
    Off,
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    root: Option<PathBuf>,
    address: Option<PathBuf>,
    control: Option<PathBuf>,
    route: Option<Route>,
    finish_after: Option<u32>,
    diff_ids: Option<DiffIds>,
    prefetch: Option<bool>,
    store_limit: Option<String>,
    store_reserve: Option<String>,
    memory: Option<String>,
    containerd: Option<PathBuf>,
    log_level: Option<String>,
    trusted_keys: Vec<PathBuf>,
    overlay: OverlayTable,
    pull: Option<PullTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OverlayTable {
    redirect_dir: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PullTable {
    deadline: Option<u32>,
    content: Option<PathBuf>,
    auth_file: Option<PathBuf>,
    hosts_dirs: Option<Vec<PathBuf>>,
    insecure: bool,
    serve: Option<String>,
    partial_limit: Option<String>,
}

impl PullSettings {
    fn of(table: PullTable, trusted_keys: Vec<PathBuf>) -> Result<Self> {
        let content = table.content.unwrap_or_else(|| PathBuf::from(DEFAULT_CONTENT));
        if let Some(url) = table.serve.as_deref().filter(|url| !url.starts_with("http")) {
            return Err(Error::Config { what: format!("serve: not a URL: {url:?}") });
        }
        Ok(Self {
            deadline: Duration::from_secs(table.deadline.unwrap_or(10).into()),
            content,
            auth_file: table.auth_file,
            hosts_dirs: table.hosts_dirs,
            insecure: table.insecure,
            trusted_keys,
            serve: table.serve,
            partial_bytes: parsed("partial_limit", table.partial_limit.as_deref(), parse_size)?
                .unwrap_or(PARTIAL_BYTES),
        })
    }
}

/// How deltas are looked for within ordinary pulls (`pull`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullSettings {
    /// How long a pull waits for them.
    pub deadline: Duration,
    /// Directory of containerd's content store.
    pub content: PathBuf,
    /// File with credentials of registries; those of podman and docker when not set.
    pub auth_file: Option<PathBuf>,
    /// Directories with `hosts.toml` and certificates; containerd's and docker's when not set.
    pub hosts_dirs: Option<Vec<PathBuf>>,
    /// Plain HTTP to other machines, and any certificate.
    pub insecure: bool,
    /// Public keys one of which has to have signed a delta; none: they need not be signed.
    pub trusted_keys: Vec<PathBuf>,
    /// URL of a `d4c serve` to ask where no delta of the registry leads there at once.
    pub serve: Option<String>,
    /// What is kept at most of deltas whose download broke off.
    pub partial_bytes: u64,
}

impl PullSettings {
    /// How registries are reached.
    pub(crate) fn registry(&self) -> RegistryOptions {
        let mut options = RegistryOptions {
            insecure: self.insecure,
            auth_file: self.auth_file.clone(),
            ..RegistryOptions::default()
        };
        if let Some(dirs) = &self.hosts_dirs {
            options.hosts_dirs.clone_from(dirs);
        }
        options
    }
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of metadata and snapshots.
    pub root: PathBuf,
    /// Socket of the Snapshots service.
    pub address: PathBuf,
    /// Socket for the command line.
    pub control: PathBuf,
    /// How delta images are served.
    pub route: Route,
    /// How long after a load the rest is made.
    pub finish_after: Duration,
    /// When layers are compared with their diff IDs.
    pub diff_ids: DiffIds,
    /// Whether it is made at all without being asked for.
    pub prefetch: bool,
    /// How much room contents may take.
    pub space: Space,
    /// Memory for making contents.
    pub memory_bytes: u64,
    /// containerd's socket.
    pub containerd: PathBuf,
    /// What to log.
    pub log_level: String,
    /// Mount with `redirect_dir=on`.
    pub redirect_dir: bool,
    /// Look for deltas within ordinary pulls; none: do not.
    pub pull: Option<PullSettings>,
}

impl Config {
    /// Reads the file and puts the flags over it.
    ///
    /// # Errors
    /// `Config` for a file that cannot be read or understood, and for values that cannot work.
    pub fn load(flags: Flags) -> Result<Self> {
        let file = read(flags.config.as_deref())?;
        for key in &file.trusted_keys {
            TrustedKey::read(key)
                .map_err(|error| Error::Config { what: format!("trusted_keys: {error}") })?;
        }
        let or = |flag: Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            flag.or(file).unwrap_or_else(|| PathBuf::from(default))
        };
        let config = Self {
            root: or(flags.root, file.root, "/var/lib/di3fs"),
            address: or(flags.address, file.address, "/run/di3fs/snapshotter.sock"),
            control: or(flags.control, file.control, "/run/di3fs/control.sock"),
            route: flags.route.or(file.route).unwrap_or_default(),
            finish_after: Duration::from_secs(flags.finish_after.or(file.finish_after).unwrap_or(2).into()),
            diff_ids: flags.diff_ids.or(file.diff_ids).unwrap_or_default(),
            prefetch: flags.prefetch.or(file.prefetch).unwrap_or(true),
            space: Space {
                limit: flags.store_limit.or(parsed("store_limit", file.store_limit.as_deref(), parse_size)?),
                reserve: flags
                    .store_reserve
                    .or(parsed("store_reserve", file.store_reserve.as_deref(), str::parse)?)
                    .unwrap_or_default(),
            },
            memory_bytes: flags
                .memory
                .or(parsed("memory", file.memory.as_deref(), memory)?)
                .unwrap_or(MEMORY_BYTES),
            containerd: or(flags.containerd, file.containerd, "/run/containerd/containerd.sock"),
            log_level: flags.log_level.or(file.log_level).unwrap_or_else(|| "info".to_owned()),
            redirect_dir: file.overlay.redirect_dir,
            pull: file.pull.map(|table| PullSettings::of(table, file.trusted_keys)).transpose()?,
        };
        check_root(&config.root)?;
        if config.address == config.control {
            let what = format!("control: {}: is the address too", config.control.display());
            return Err(Error::Config { what });
        }
        Ok(config)
    }

    /// How long after a load the rest is made; none for not before someone asks for it.
    pub fn finish_after(&self) -> Option<Duration> {
        self.prefetch.then_some(self.finish_after)
    }
}

/// The public keys that deltas from registries must be signed with, as the file says; for the command line; the plugin has them with its other settings.
///
/// # Errors
/// `Config` for a file that cannot be read or understood.
pub fn trusted_keys(asked: Option<&Path>) -> Result<Vec<PathBuf>> {
    Ok(read(asked)?.trusted_keys)
}

/// A value of the file that is written as text.
fn parsed<T>(
    key: &str,
    text: Option<&str>,
    parse: impl Fn(&str) -> std::result::Result<T, String>,
) -> Result<Option<T>> {
    let failed = |why| Error::Config { what: format!("{key}: {why}") };
    text.map(|text| parse(text).map_err(failed)).transpose()
}

/// A file that was asked for must be there, the default one need not.
fn read(asked: Option<&Path>) -> Result<File> {
    let path = asked.unwrap_or(Path::new(DEFAULT_CONFIG));
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound && asked.is_none() => return Ok(File::default()),
        Err(e) => return Err(Error::Config { what: format!("read {}: {e}", path.display()) }),
    };
    toml::from_str(&text).map_err(|e| {
        let place = e.span().map_or(String::new(), |s| {
            format!(" line {}", text[..s.start.min(text.len())].matches('\n').count() + 1)
        });
        Error::Config { what: format!("{}{place}: {}", path.display(), e.message()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, flags: Flags) -> Result<Config> {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("config.toml");
        fs::write(&path, text).unwrap();
        Config::load(Flags { config: Some(path), ..flags })
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let text = "root = \"/r\"\naddress = \"/a\"\nroute = \"overlay\"\n[overlay]\nredirect_dir = true\n";
        let flags = Flags { root: Some("/flag".into()), ..Flags::default() };
        let config = load(text, flags).unwrap();
        assert_eq!(config.root, Path::new("/flag"));
        assert_eq!(config.address, Path::new("/a"));
        assert_eq!(config.control, Path::new("/run/di3fs/control.sock"));
        assert!(config.redirect_dir && config.log_level == "info");
        assert_eq!((config.route, config.finish_after), (Route::Overlay, Duration::from_secs(2)));
        assert_eq!(config.diff_ids, DiffIds::Background);
        assert_eq!(load("diff_ids = \"off\"", Flags::default()).unwrap().diff_ids, DiffIds::Off);
        let flags = Flags { route: Some(Route::FusePassthrough), ..Flags::default() };
        assert_eq!(load("", Flags::default()).unwrap().route, Route::Auto);
        let quiet = load("prefetch = false", Flags::default()).unwrap();
        assert_eq!((quiet.finish_after(), config.finish_after()), (None, Some(Duration::from_secs(2))));
        assert_eq!(config.space, Space { limit: None, reserve: Reserve::Part(5) });
        let text = "store_limit = \"20GiB\"\nstore_reserve = \"1GiB\"";
        let reserve = Reserve::Bytes(1 << 30);
        assert_eq!(load(text, Flags::default()).unwrap().space, Space { limit: Some(20 << 30), reserve });
        assert_eq!(load("", Flags::default()).unwrap().memory_bytes, MEMORY_BYTES);
        let memory = |flag| Flags { memory: flag, ..Flags::default() };
        let of = |flag| load("memory = \"96MiB\"", memory(flag)).unwrap().memory_bytes;
        let little = load("memory = \"15MiB\"", Flags::default()).unwrap_err().to_string();
        assert!(little.ends_with("memory: below 16MiB, which is needed at least"), "{little}");
        assert_eq!((of(None), of(Some(5))), (96 << 20, 5));
        assert_eq!(load("route = \"erofs\"\nfinish_after = 9", flags).unwrap().route, Route::FusePassthrough);
    }

    #[test]
    fn deltas_are_looked_for_where_the_table_is() {
        assert_eq!(load("", Flags::default()).unwrap().pull, None);
        let pull = |text| load(text, Flags::default()).unwrap().pull.unwrap();
        let default = pull("[pull]");
        assert_eq!(
            (default.deadline, &*default.content),
            (Duration::from_secs(10), Path::new(DEFAULT_CONTENT))
        );
        assert_eq!(default.registry().hosts_dirs, RegistryOptions::default().hosts_dirs);
        assert_eq!((default.serve, default.partial_bytes), (None, 4 << 30));
        assert_eq!(pull("[pull]\npartial_limit = \"1GiB\"").partial_bytes, 1 << 30);
        let serving = pull("[pull]\nserve = \"http://127.0.0.1:5080\"");
        assert_eq!(serving.serve.as_deref(), Some("http://127.0.0.1:5080"));
        let other = pull("[pull]\ndeadline = 3\nhosts_dirs = [\"/h\"]\nauth_file = \"/a\"\ninsecure = true");
        let registry = other.registry();
        assert_eq!((other.deadline, registry.insecure), (Duration::from_secs(3), true));
        assert_eq!((registry.hosts_dirs, registry.auth_file), (vec!["/h".into()], Some("/a".into())));
    }

    #[test]
    fn what_cannot_work_is_refused_in_one_line() {
        let error = |text, flags| load(text, flags).unwrap_err().to_string();
        let none = Flags::default;
        assert!(error("rot = 1", none()).contains(" line 1: unknown field `rot`"));
        assert!(error("\n[overlay]\nx = 1", none()).contains("unknown field `x`"));
        assert!(error("root = [", none()).starts_with("config: "));
        assert!(error("route = \"boat\"", none()).contains("unknown variant `boat`"));
        assert!(error("store_limit = \"much\"", none()).contains("store_limit: not a size"));
        assert!(error("store_reserve = \"101%\"", none()).contains("store_reserve: not a part"));
        assert!(error("[pull]\npartial_limit = \"much\"", none()).contains("partial_limit: not a size"));
        assert!(error("[pull]\nserve = \"there\"", none()).contains("serve: not a URL: \"there\""));
        assert!(
            error("trusted_keys = [\"/nowhere/key\"]", none())
                .starts_with("config: trusted_keys: read key: /nowhere/key: ")
        );
        assert!(error("root = \"/a:b\"", none()).contains("mount options"));
        assert!(error("address = \"/s\"\ncontrol = \"/s\"", none()).contains("is the address too"));
        let missing = Flags { config: Some("/nowhere/config.toml".into()), ..none() };
        let text = Config::load(missing).unwrap_err().to_string();
        assert!(text.starts_with("config: read /nowhere/config.toml: "), "{text}");
    }
}
