//! `d4c publish REF`: what a builder of images runs after `docker push`. Makes the deltas to an image from those that were tagged before it,
//! and puts them beside it. What is there already is not made again, so it can be run as often as one likes.
//!
//! Images are put in order by the `created` of their configs, newest first; where that is the same or missing, as with builds that
//! are to the bit the same each time, by their tags (`order`). Of images for several platforms each is looked at by itself: a delta leads to it from
//! the images that the same machines ran before. One pair is made after the other.

mod order;

use std::cmp::Reverse;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{self, AtomicUsize};

use d4c_image::created::Created;
use d4c_image::delta::{self, Published};
use d4c_image::error::{Class, SourceError};
use d4c_image::manifest::Config as ImageConfig;
use d4c_image::platform::Platform;
use d4c_image::registry::{Repository, is_of_artifact};
use d4c_image::source::{Options as ImageOptions, RemoteImage, RemoteRoot};
use d4c_sys::on_threads;
use regex::Regex;
use serde_json::{Value, json};

use super::build::{self, MakeOptions};
use super::publish::{self, SCHEME};
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::image::{Image, Opener};
use crate::progress::{Progress, Unit};
use crate::units::{Bytes, parse_count};
use order::{InTime, by_number, is_before, last_below};

/// Options of `publish`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The image that nodes are to get, by tag or digest
    #[arg(value_name = "REF")]
    reference: String,
    /// From how many images that were tagged before it
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_count)]
    from_last: NonZeroUsize,
    /// Only tags that this regular expression matches as a whole
    #[arg(long = "match", value_name = "REGEX")]
    pattern: Option<String>,
    /// From this tag or digest of the same repository, instead; may be given several times
    #[arg(long, value_name = "TAG", conflicts_with_all = ["from_last", "pattern"])]
    from: Vec<String>,
    #[command(flatten)]
    make: MakeOptions,
}

/// What fails where there is no image for a platform.
const CHOOSE: &str = "choose platform";
/// Images of a repository that are looked at together.
const AT_ONCE: usize = 8;

/// An image that a delta could start from.
struct Earlier {
    image: RemoteImage,
    /// Those that it has, in their order; what it was asked for by.
    tags: Vec<String>,
    created: Option<Created>,
}

/// The image of one platform, to which deltas are made.
struct Target {
    platform: Platform,
    image: RemoteImage,
    created: Option<Created>,
}

/// Makes the deltas and publishes them.
///
/// # Errors
/// There is no such image, an image cannot be read, or the registry refuses a delta; those made before stay.
pub(crate) fn run(options: &Options, config: &Config) -> Result<(), Failure> {
    let pattern = options.pattern.as_ref().map(|text| whole(text)).transpose()?;
    let reference = publish::reference(&options.reference)?;
    let progress = Progress::new(config.progress);
    let wanted = options.make.image.platforms()?;
    let opener = Opener::with_platform(&options.make.image, None, config, &progress);
    let repository = Arc::new(publish::repository(&options.reference, &options.make.image.registry)?);
    progress.stage("look at images", Unit::Bytes, 0);
    let tag = reference.digest().or(reference.tag()).unwrap_or("latest");
    let root = RemoteRoot::within(&repository, tag)?;
    let targets = targets(&root, &wanted, &opener)?;
    let tags: Vec<String> = match options.from.is_empty() {
        true => repository.tags()?,
        false => options.from.clone(),
    };
    let is_wanted = |tag: &&String| {
        let fits = pattern.as_ref().is_none_or(|pattern| pattern.is_match(tag));
        !options.from.is_empty() || fits && !is_of_artifact(tag)
    };
    let tags: Vec<&String> = tags.iter().filter(is_wanted).collect();
    let mut found = look(&tags, &targets, &repository, &opener)?;
    if options.from.is_empty() {
        let name = reference.digest().is_none().then_some(tag);
        for (target, (images, _)) in targets.iter().zip(&mut found) {
            last_before(target, images, name, options.from_last.get());
        }
    } else {
        // What was not asked for by its name may be missing, as long as there is something of the tag.
        let most = if wanted.is_empty() { targets.len() } else { 1 };
        let skipped: Vec<_> = found.iter().flat_map(|(_, skipped)| skipped).collect();
        let is_missing = |tag: &str| skipped.iter().filter(|(other, _)| other == tag).count() >= most;
        if let Some((tag, why)) = skipped.iter().find(|(tag, _)| is_missing(tag)) {
            return Err(Failure::new(Kind::NotFound, "find image", tag, why));
        }
    }
    let mut told = Told::default();
    for (target, (earlier, skipped)) in targets.iter().zip(&found) {
        told.begin(target, earlier.is_empty(), skipped);
        let mut new: Option<Image> = None;
        for old in earlier {
            let made = one(old, &target.image, &mut new, &repository, &opener, options, config)?;
            told.add(target, old, &made);
        }
    }
    drop(progress);
    config.output.report(&told.value(repository.name()), || told.text)
}

/// The images that `root` leads to, for the platforms that are wanted, else for all of them.
fn targets(root: &RemoteRoot, wanted: &[Platform], opener: &Opener<'_>) -> Result<Vec<Target>, SourceError> {
    let platforms = match root.platforms()? {
        _ if !wanted.is_empty() => wanted.to_vec(),
        Some(named) => named,
        None => {
            let image = root.image(&opener.options)?;
            let ImageConfig { platform, created, .. } = image.config(&opener.options)?.1;
            return Ok(vec![Target { platform, image, created }]);
        }
    };
    let mut targets: Vec<Target> = Vec::new();
    for platform in platforms {
        let (created, image) = of_platform(root, &platform, opener)?;
        // Two names may lead to one image, which is made once.
        if !targets.iter().any(|other| other.image.digest() == image.digest()) {
            targets.push(Target { platform, image, created });
        }
    }
    if targets.is_empty() {
        let (on, why) = (root.name().to_owned(), "the index names no platform".to_owned());
        return Err(SourceError::NotFound { what: CHOOSE, on, why });
    }
    Ok(targets)
}

/// The image for a platform, and when it was made.
fn of_platform(
    root: &RemoteRoot,
    platform: &Platform,
    opener: &Opener<'_>,
) -> Result<(Option<Created>, RemoteImage), SourceError> {
    let options = ImageOptions { platform: Some(platform.clone()), ..opener.options.clone() };
    let image = root.image(&options)?;
    let config = image.config(&options)?.1;
    // What an index says of its images counts: not all configs tell the variant.
    if root.platforms()?.is_none() && platform.fitness(&config.platform).is_none() {
        let why = format!("no image for {platform}; present: {}", config.platform);
        return Err(SourceError::NotFound { what: CHOOSE, on: image.name().to_owned(), why });
    }
    Ok((config.created, image))
}

/// Leaves of `images` the last `count` of those older than the target, whose tag is `name`, the newest first.
fn last_before(target: &Target, images: &mut Vec<Earlier>, name: Option<&str>, count: usize) {
    images.retain(|image| {
        image.image.digest() != target.image.digest()
            && is_before(image.created, &image.tags, target.created, name)
    });
    let tag_of = |image: &Earlier| last_below(&image.tags, name).map(str::to_owned);
    images.sort_by_cached_key(|image| Reverse(InTime(image.created, tag_of(image).unwrap_or_default())));
    images.truncate(count);
}

/// The expression for a whole tag.
fn whole(text: &str) -> Result<Regex, Failure> {
    Regex::new(&format!("^(?:{text})$")).map_err(|error| {
        let why = error.to_string();
        Failure::usage(
            text,
            why.lines().last().unwrap_or("no regular expression").trim_start_matches("error: "),
        )
    })
}

/// The tags that are no images for the platform, and why.
type Skipped = Vec<(String, String)>;

/// What there is at these tags for each of the targets' platforms: images, each once, and what was skipped.
fn look(
    tags: &[&String],
    targets: &[Target],
    repository: &Arc<Repository>,
    opener: &Opener<'_>,
) -> Result<Vec<(Vec<Earlier>, Skipped)>, Failure> {
    let next = AtomicUsize::new(0);
    let (found, failed) = (Mutex::new(Vec::new()), Mutex::new(None));
    let look_at = |tag: &String| -> Result<(), SourceError> {
        let root = RemoteRoot::within(repository, tag);
        for (number, target) in targets.iter().enumerate() {
            let image = match &root {
                Ok(root) => match of_platform(root, &target.platform, opener) {
                    Err(error) if !is_no_image(error.class()) => return Err(error),
                    image => image.map_err(|error| error.to_string()),
                },
                Err(error) if is_no_image(error.class()) => Err(error.to_string()),
                Err(_) => return root.map(drop),
            };
            found.lock().unwrap_or_else(PoisonError::into_inner).push((number, tag.clone(), image));
        }
        Ok(())
    };
    on_threads(AT_ONCE.min(tags.len()), || {
        while let Some(tag) = tags.get(next.fetch_add(1, atomic::Ordering::Relaxed)) {
            if let Err(error) = look_at(tag) {
                next.store(tags.len(), atomic::Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error.into());
    }
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by(|one, other| by_number(&one.1, &other.1));
    let mut all: Vec<(Vec<Earlier>, Skipped)> = targets.iter().map(|_| Default::default()).collect();
    for (number, tag, image) in found {
        let (images, skipped) = &mut all[number];
        match image {
            Ok((created, image)) => {
                match images.iter_mut().find(|known| known.image.digest() == image.digest()) {
                    Some(known) => known.tags.push(tag),
                    None => images.push(Earlier { image, tags: vec![tag], created }),
                }
            }
            Err(why) => skipped.push((tag, why)),
        }
    }
    Ok(all)
}

/// Whether the failure is that of the one tag: another kind of artifact, another platform, removed meanwhile.
fn is_no_image(class: Class) -> bool {
    matches!(class, Class::NotFound | Class::Corrupt | Class::Usage)
}

/// What is said of it in the end.
#[derive(Default)]
struct Told {
    images: Vec<Value>,
    deltas: Vec<Value>,
    skipped: Vec<Value>,
    text: String,
}

impl Told {
    /// A target, and whether nothing leads to it.
    fn begin(&mut self, target: &Target, is_first: bool, skipped: &Skipped) {
        let (platform, image) = (target.platform.to_string(), &target.image);
        let (digest, bytes) = (image.digest(), image.pull_bytes());
        self.images.push(json!({"platform": platform, "target": digest.to_string(), "pull_bytes": bytes}));
        let told = skipped.iter().map(|(tag, why)| json!({"tag": tag, "why": why, "platform": platform}));
        self.skipped.extend(told);
        let none = if is_first { "no image was tagged before it: nothing to do\n" } else { "" };
        let (name, bytes) = (image.name(), Bytes(bytes));
        self.text.push_str(&format!("{name}, {platform}: {digest}, layers of {bytes}\n{none}"));
    }

    /// A delta, and whether it was pushed now.
    fn add(&mut self, target: &Target, old: &Earlier, (published, pushed): &(Published, bool)) {
        self.deltas.push(json!({
            "tags": old.tags,
            "created": old.created.map(|created| created.to_string()),
            "platform": target.platform.to_string(),
            "source": old.image.digest().to_string(),
            "target": target.image.digest().to_string(),
            "manifest": published.manifest.to_string(),
            "bytes": published.bytes,
            "pushed": pushed,
        }));
        let done = if *pushed { "pushed" } else { "there already" };
        let (from, bytes) = (old.tags.join(", "), Bytes(published.bytes));
        let when = old.created.map_or_else(String::new, |created| format!(" ({created})"));
        self.text.push_str(&format!("from {from}{when}: {bytes}: {done}\n"));
    }

    /// All of it; of one image also as if there were no others.
    fn value(&self, repository: &str) -> Value {
        let mut value = json!({
            "repository": repository,
            "images": self.images,
            "deltas": self.deltas,
            "skipped": self.skipped,
        });
        if let [only] = &self.images[..] {
            value["target"] = only["target"].clone();
            value["pull_bytes"] = only["pull_bytes"].clone();
        }
        value
    }
}

/// The delta from `old`, made where the repository has none; whether it was pushed now.
fn one(
    old: &Earlier,
    target: &RemoteImage,
    new: &mut Option<Image>,
    repository: &Repository,
    opener: &Opener<'_>,
    options: &Options,
    config: &Config,
) -> Result<(Published, bool), Failure> {
    opener.progress.stage("look for deltas", Unit::Bytes, 0);
    if let Some(there) = delta::find(repository, target.digest(), Some(old.image.digest()))? {
        return Ok((there, false));
    }
    // Read once for all of them.
    let new = match new {
        Some(new) => new,
        none => none.insert(opener.read(&target.open(&opener.options)?)?),
    };
    let old = opener.read(&old.image.open(&opener.options)?)?;
    let tmpdir = &config.tmpdir;
    let mut file = tempfile::tempfile_in(tmpdir).map_err(Failure::io("make temporary file", tmpdir))?;
    let path = Path::new("delta");
    let how = options.make.make(&format!("{SCHEME}{}", options.reference), tmpdir.clone());
    build::make(Some(&old), new, how, (&mut file, path), opener)?;
    publish::put(repository, (file, path), opener.progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_for_the_whole_tag() {
        let pattern = whole("v[0-9]+|main").unwrap();
        assert!(pattern.is_match("v12") && pattern.is_match("main"));
        assert!(!pattern.is_match("v12-rc") && !pattern.is_match("domain"));
        assert_eq!(whole("v(").unwrap_err().kind, Kind::Usage);
    }
}
