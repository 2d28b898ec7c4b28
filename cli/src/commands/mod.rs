//! The commands, one file each: its options, and what it does with them.

mod abandoned;
mod base;
pub(crate) mod build;
mod completions;
mod convert;
mod diff;
mod downloads;
mod export;
mod from_tags;
mod images;
mod load;
mod man;
mod merge;
mod mount;
mod node;
mod pack;
mod patch;
mod pick;
mod prefetch;
mod prune;
mod publish;
mod pull;
mod push;
mod reach;
mod serve;
mod show;
mod stat;
mod status;
mod unpack;
mod verify;

use clap::Subcommand;

use crate::config::Config;
use crate::failure::Failure;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a base file of an image: every layer, no parent
    Convert(convert::Options),
    /// Make the delta from one image to another
    Diff(diff::Options),
    /// Make one delta of several that follow each other, without any image
    Merge(merge::Options),
    /// Apply deltas to an image
    Patch(patch::Options),
    /// Put a dimg, a manifest and a config together
    Pack(pack::Options),
    /// Take a cdimg apart
    Unpack(unpack::Options),
    /// Show what is in a file
    Show(show::Options),
    /// Show files in numbers
    Stat(stat::Options),
    /// Check a file, and with its base every content and layer
    Verify(verify::Options),
    /// Mount an image: contents are made when files are opened
    Mount(mount::Options),
    /// Load images into containerd, without their layers' blobs
    Load(load::Options),
    /// Get an image from a registry onto this node, by deltas where they lead there
    Pull(pull::Options),
    /// Put a delta into a registry, beside the image that it makes
    Push(push::Options),
    /// Make the deltas from the last tags of a repository to an image in it, and put them beside it
    Publish(from_tags::Options),
    /// Give other nodes deltas on demand: found, merged or made
    Serve(serve::Options),
    /// Write an image of this node as an OCI layout
    Export(export::Options),
    /// List the images that the snapshotter has
    Images,
    /// Make all contents of a loaded image now
    Prefetch(prefetch::Options),
    /// Remove images that containerd does not use
    Prune(prune::Options),
    /// Show how the snapshotter is, and how an image would be reached from what it has
    Status(status::Options),
    /// Print a completion script
    Completions(completions::Options),
    /// Write the man pages
    Man(man::Options),
}

/// Does what the command line says.
///
/// # Errors
/// The command's own.
pub(crate) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    match command {
        Command::Convert(options) => convert::run(&options, config),
        Command::Diff(options) => diff::run(&options, config),
        Command::Merge(options) => merge::run(options, config),
        Command::Patch(options) => patch::run(options, config),
        Command::Pack(options) => pack::run(&options, config),
        Command::Unpack(options) => unpack::run(&options, config),
        Command::Show(options) => show::run(&options, config),
        Command::Stat(options) => stat::run(&options, config),
        Command::Verify(options) => verify::run(options, config),
        Command::Mount(options) => mount::run(options, config),
        Command::Load(options) => load::run(&options, config),
        Command::Pull(options) => pull::run(&options, config),
        Command::Push(options) => push::run(&options, config),
        Command::Publish(options) => from_tags::run(&options, config),
        Command::Serve(options) => serve::run(options, config),
        Command::Export(options) => export::run(&options, config),
        Command::Images => images::run(config),
        Command::Prefetch(options) => prefetch::run(&options, config),
        Command::Prune(options) => prune::run(&options, config),
        Command::Status(options) => status::run(&options, config),
        Command::Completions(options) => completions::run(options, config),
        Command::Man(options) => man::run(&options),
    }
}
