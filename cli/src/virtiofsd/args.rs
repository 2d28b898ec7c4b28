//! The command line of `di3fs-virtiofsd`: our own words, and those with which Kata Containers and others start virtiofsd.
//!
//! A flag of virtiofsd that would promise what we do not keep is not taken; one that makes no difference here is, and does nothing.

use std::num::NonZeroUsize;
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Parser;
use di3fs_virtiofs::{Cache, Confinement};

use crate::args::Global;
use crate::failure::Failure;
use crate::image::ImageOptions;

/// An image, made as it is read, or a directory, for a virtual machine: virtio-fs over vhost-user.
#[derive(Debug, Parser)]
#[command(name = "di3fs-virtiofsd", version, max_term_width = 100, args_override_self = true)]
pub(crate) struct Args {
    /// Where the machine's monitor connects; several for several machines, which share what was made
    #[arg(long, value_name = "SOCK", required_unless_present = "fd")]
    pub(crate) socket_path: Vec<PathBuf>,
    /// The same, of a socket that listens already, by its number
    #[arg(long, value_name = "N")]
    pub(crate) fd: Vec<RawFd>,
    /// Serve an image: a base file and the deltas on it, in order; or any source, or the name of one in containerd
    #[arg(long, value_name = "FILE|REF", num_args = 1..)]
    pub(crate) image: Vec<String>,
    /// The image that the first file starts from, when that is a delta: any source
    #[arg(long, value_name = "SRC")]
    pub(crate) base: Option<String>,
    /// Keep made contents here for the next start (default: removed at the end)
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Serve a directory, read and written
    #[arg(long, value_name = "DIR")]
    pub(crate) shared_dir: Option<PathBuf>,
    /// What the guest may keep of a directory: never, metadata, auto, always
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = str::parse::<Cache>)]
    pub(crate) cache: Cache,
    /// How the process is shut in a directory: namespace, chroot, none
    #[arg(long, value_name = "HOW", default_value = "namespace", value_parser = str::parse::<Confinement>)]
    pub(crate) sandbox: Confinement,
    /// Pass extended attributes of a directory through; those of an image always are
    #[arg(long)]
    pub(crate) xattr: bool,
    /// The name of the file system in the guest, for monitors that ask for it
    #[arg(long, value_name = "NAME", value_parser = tag)]
    pub(crate) tag: Option<String>,
    /// Threads for each machine (default: by the number of cores)
    #[arg(long, value_name = "N")]
    pub(crate) thread_pool_size: Option<usize>,
    /// Send log lines to the system's log, and print nothing
    #[arg(long)]
    pub(crate) syslog: bool,
    /// Options as old versions of virtiofsd have them: source=DIR, cache=HOW, sandbox=HOW, xattr
    #[arg(short = 'o', value_name = "OPTION", value_delimiter = ',')]
    pub(crate) options: Vec<String>,
    #[command(flatten)]
    pub(crate) opening: ImageOptions,
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(flatten)]
    _ignored: Ignored,
}

/// Flags that make no difference here.
#[derive(Debug, clap::Args)]
struct Ignored {
    #[arg(short = 'f', hide = true)]
    foreground: bool,
    #[arg(long, hide = true)]
    announce_submounts: bool,
    #[arg(long, hide = true)]
    no_announce_submounts: bool,
    #[arg(long, hide = true, value_name = "HOW")]
    seccomp: Option<String>,
    #[arg(long, hide = true, value_name = "HOW")]
    inode_file_handles: Option<String>,
    #[arg(long, hide = true, value_name = "N")]
    rlimit_nofile: Option<u64>,
    #[arg(long, hide = true)]
    allow_direct_io: bool,
    #[arg(long, hide = true)]
    no_killpriv_v2: bool,
}

impl Args {
    /// Takes `-o` into account.
    ///
    /// # Errors
    /// An option is not known, or has a value that it cannot have.
    pub(crate) fn with_options(mut self) -> Result<Self, Failure> {
        for option in std::mem::take(&mut self.options) {
            let (name, value) = option.split_once('=').unwrap_or((&option, ""));
            let wrong = |why: String| Failure::usage(format!("-o {name}"), format!("{value:?}: {why}"));
            match name {
                "source" => self.shared_dir = Some(value.into()),
                "cache" => self.cache = value.parse().map_err(wrong)?,
                "sandbox" => self.sandbox = value.parse().map_err(wrong)?,
                "xattr" => self.xattr = true,
                "no_xattr" => self.xattr = false,
                "announce_submounts"
                | "no_posix_lock"
                | "no_flock"
                | "no_remote_posix_lock"
                | "no_writeback" => {}
                _ => return Err(Failure::usage(format!("-o {name}"), "no such option")),
            }
        }
        let of_images = self.base.is_some() || self.store.is_some();
        match (self.image.is_empty(), self.shared_dir.is_none()) {
            (true, true) => Err(Failure::usage("--image or --shared-dir", "one of them is needed")),
            (false, false) => Err(Failure::usage("--image and --shared-dir", "one of them is enough")),
            (true, false) if of_images => Err(Failure::usage("--base and --store", "are for --image")),
            _ => Ok(self),
        }
    }

    /// Threads for each machine.
    pub(crate) fn threads(&self) -> NonZeroUsize {
        let default = || di3fs::mount::Options::default().threads;
        self.thread_pool_size
            .map_or_else(default, |threads| NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN))
    }
}

/// A device's tag is 36 bytes at most.
fn tag(text: &str) -> Result<String, String> {
    match text.len() {
        1..=36 => Ok(text.to_owned()),
        bytes => Err(format!("{bytes} bytes where 1 to 36 are possible")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        let args = Args::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        args.with_options().map_err(|failure| failure.to_string())
    }

    #[test]
    fn lines_of_others_are_understood() {
        let kata = parse(
            "virtiofsd --syslog --cache=never --shared-dir=/shared --fd=3 --thread-pool-size=0 --announce-submounts",
        );
        let kata = kata.unwrap();
        assert_eq!((kata.fd, kata.cache, kata.syslog), (vec![3], Cache::Never, true));
        let kata =
            parse("virtiofsd --socket-path s --cache auto --shared-dir /d --sandbox none --seccomp none");
        assert_eq!(kata.unwrap().sandbox, Confinement::None);
        let old =
            parse("virtiofsd --fd=3 -o source=/shared -o cache=always,xattr -o sandbox=chroot -f").unwrap();
        assert_eq!(old.shared_dir, Some("/shared".into()));
        assert_eq!((old.cache, old.sandbox, old.xattr), (Cache::Always, Confinement::Chroot, true));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "virtiofsd --socket-path s",
            "virtiofsd --shared-dir d",
            "virtiofsd --socket-path s --shared-dir d --image f",
            "virtiofsd --socket-path s --shared-dir d --readonly",
            "virtiofsd --socket-path s --shared-dir d --base f",
            "virtiofsd --socket-path s --shared-dir d -o translate",
            "virtiofsd --socket-path s --shared-dir d --cache sometimes",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        let long = format!("virtiofsd --socket-path s --image f --tag {}", "t".repeat(37));
        parse(&long).unwrap_err();
    }
}
