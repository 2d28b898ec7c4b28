//! `d4c publish REF`: what a builder of images runs after `docker push`. Makes the deltas to an image from those that were tagged before it,
//! and puts them beside it. What is there already is not made again, so it can be run as often as one likes.
//!
//! Images are put in order by the `created` of their configs, newest first; where that is the same or missing, as with builds that
//! are to the bit the same each time, by their tags, in which numbers count as numbers. One pair is made after the other.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{self, AtomicUsize};

use d4c_image::created::Created;
use d4c_image::delta::{self, Published};
use d4c_image::error::Class;
use d4c_image::registry::Repository;
use d4c_image::source::RemoteImage;
use d4c_sys::on_threads;
use dimg::Digest;
use regex::Regex;
use serde_json::{Value, json};

use super::build::{self, MakeOptions};
use super::publish::{self, SCHEME};
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::image::{Image, Opener};
use crate::progress::{Progress, Unit};
use crate::units::Bytes;

/// Options of `publish`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The image that nodes are to get, by tag or digest
    #[arg(value_name = "REF")]
    reference: String,
    /// From how many images that were tagged before it
    #[arg(long, value_name = "N", default_value_t = 1)]
    from_last: usize,
    /// Only tags that this regular expression matches as a whole
    #[arg(long = "match", value_name = "REGEX")]
    pattern: Option<String>,
    /// From this tag or digest of the same repository, instead; may be given several times
    #[arg(long, value_name = "TAG", conflicts_with_all = ["from_last", "pattern"])]
    from: Vec<String>,
    #[command(flatten)]
    make: MakeOptions,
}

/// Images of a repository that are looked at together.
const AT_ONCE: usize = 8;

/// An image that a delta could start from.
struct Earlier {
    image: RemoteImage,
    /// Those that it has, in their order; what it was asked for by.
    tags: Vec<String>,
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
    let opener = Opener::new(&options.make.image, config, &progress)?;
    let repository = Arc::new(publish::repository(&options.reference, &options.make.image.registry)?);
    progress.stage("look at images", Unit::Bytes, 0);
    let tag = reference.digest().or(reference.tag()).unwrap_or("latest");
    let target = RemoteImage::within(&repository, tag, &opener.options)?;
    let (earlier, skipped) = if options.from.is_empty() {
        let created = target.config(&opener.options)?.1.created;
        let tags: Vec<String> = repository.tags()?;
        let wanted = |tag: &&String| {
            pattern.as_ref().is_none_or(|pattern| pattern.is_match(tag)) && !is_of_artifact(tag)
        };
        let tags: Vec<&String> = tags.iter().filter(wanted).collect();
        let (mut images, skipped) = look(&tags, &repository, &opener)?;
        let name = reference.digest().is_none().then_some(tag);
        images.retain(|image| {
            image.image.digest() != target.digest() && is_before(image.created, &image.tags, created, name)
        });
        let tag_of = |image: &Earlier| last_below(&image.tags, name).map(str::to_owned);
        images.sort_by_cached_key(|image| Reverse(InTime(image.created, tag_of(image).unwrap_or_default())));
        images.truncate(options.from_last);
        (images, skipped)
    } else {
        let (images, skipped) = look(&options.from.iter().collect::<Vec<_>>(), &repository, &opener)?;
        if let Some((tag, why)) = skipped.first() {
            return Err(Failure::new(Kind::NotFound, "find image", tag, why));
        }
        (images, skipped)
    };
    let (mut values, mut text) = (Vec::new(), String::new());
    let mut new: Option<Image> = None;
    for old in &earlier {
        let (published, pushed) = one(old, &target, &mut new, &repository, &opener, options, config)?;
        values.push(json!({
            "tags": old.tags,
            "created": old.created.map(|created| created.to_string()),
            "source": old.image.digest().to_string(),
            "manifest": published.manifest.to_string(),
            "bytes": published.bytes,
            "pushed": pushed,
        }));
        let done = if pushed { "pushed" } else { "there already" };
        let (from, bytes) = (old.tags.join(", "), Bytes(published.bytes));
        let when = old.created.map_or_else(String::new, |created| format!(" ({created})"));
        text.push_str(&format!("from {from}{when}: {bytes}: {done}\n"));
    }
    drop(progress);
    let pull_bytes = target.pull_bytes();
    let value = json!({
        "repository": repository.name(),
        "target": target.digest().to_string(),
        "pull_bytes": pull_bytes,
        "deltas": values,
        "skipped": skipped.iter().map(|(tag, why)| json!({"tag": tag, "why": why})).collect::<Vec<Value>>(),
    });
    config.output.report(&value, || {
        let none = if earlier.is_empty() { "no image was tagged before it: nothing to do\n" } else { "" };
        format!("{}: {}, layers of {}\n{none}{text}", target.name(), target.digest(), Bytes(pull_bytes))
    })
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

/// Whether a tag is one of those that stand for what refers to an image: `sha256-<hex>`, and cosign's, `sha256-<hex>.sig`.
fn is_of_artifact(tag: &str) -> bool {
    tag.strip_prefix("sha256-").is_some_and(|rest| {
        let hex = rest.split('.').next().unwrap_or_default();
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The tags that are no images for the platform, and why.
type Skipped = Vec<(String, String)>;

/// The images at these tags, each once.
fn look(
    tags: &[&String],
    repository: &Arc<Repository>,
    opener: &Opener<'_>,
) -> Result<(Vec<Earlier>, Skipped), Failure> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some(tag) = tags.get(next.fetch_add(1, atomic::Ordering::Relaxed)) {
            let image = RemoteImage::within(repository, tag, &opener.options)
                .and_then(|image| Ok((image.config(&opener.options)?.1.created, image)));
            if image.as_ref().is_err_and(|error| !is_no_image(error.class())) {
                next.store(tags.len(), atomic::Ordering::Relaxed);
            }
            found.lock().unwrap_or_else(PoisonError::into_inner).push(((*tag).clone(), image));
        }
    };
    on_threads(AT_ONCE.min(tags.len()), work);
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by(|one, other| by_number(&one.0, &other.0));
    let (mut images, mut skipped): (Vec<Earlier>, _) = (Vec::new(), Vec::new());
    let mut known: HashMap<Digest, usize> = HashMap::new();
    for (tag, image) in found {
        match image {
            Ok((created, image)) => match known.get(&image.digest()) {
                Some(&at) => images[at].tags.push(tag),
                None => {
                    known.insert(image.digest(), images.len());
                    images.push(Earlier { image, tags: vec![tag], created });
                }
            },
            Err(error) if is_no_image(error.class()) => skipped.push((tag, error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((images, skipped))
}

/// Whether the failure is that of the one tag: another kind of artifact, another platform, removed meanwhile.
fn is_no_image(class: Class) -> bool {
    matches!(class, Class::NotFound | Class::Corrupt | Class::Usage)
}

/// Whether an image with these tags is older than one made at `created` with the tag `tag`.
fn is_before(made: Option<Created>, tags: &[String], created: Option<Created>, tag: Option<&str>) -> bool {
    match made.cmp(&created) {
        Ordering::Less => true,
        Ordering::Greater => false,
        Ordering::Equal => tag.is_some() && last_below(tags, tag).is_some(),
    }
}

/// The last of `tags`, which are in their order, of those before `tag`.
fn last_below<'a>(tags: &'a [String], tag: Option<&str>) -> Option<&'a str> {
    let below = |other: &&String| tag.is_none_or(|tag| by_number(other, tag).is_lt());
    tags.iter().rev().find(below).map(String::as_str)
}

/// An image's time and tag, in this order.
#[derive(Debug, Eq)]
struct InTime(Option<Created>, String);

impl PartialEq for InTime {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Ord for InTime {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0).then_with(|| by_number(&self.1, &other.1))
    }
}

impl PartialOrd for InTime {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By the text, in which numbers count as such: `v1.9` before `v1.10`.
fn by_number(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (left, right) = (digits(one), digits(other));
        if left > 0 && right > 0 {
            let (number, rest) = one.split_at(left);
            let (against, rest_of_other) = other.split_at(right);
            let (number, against) = (number.trim_start_matches('0'), against.trim_start_matches('0'));
            let order = number.len().cmp(&against.len()).then_with(|| number.cmp(against));
            if order.is_ne() {
                return order;
            }
            (one, other) = (rest, rest_of_other);
            continue;
        }
        let (mut chars, mut others) = (one.chars(), other.chars());
        match (chars.next(), others.next()) {
            (Some(left), Some(right)) if left == right => (one, other) = (chars.as_str(), others.as_str()),
            (left, right) => return left.cmp(&right),
        }
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
    fn numbers_in_tags_count_as_numbers() {
        let mut tags = ["v1.10", "v1.9", "latest", "v1.9-rc1", "v2", "v1.09.1", "10", "9", "v1"];
        tags.sort_by(|one, other| by_number(one, other));
        assert_eq!(tags, ["9", "10", "latest", "v1", "v1.9", "v1.9-rc1", "v1.09.1", "v1.10", "v2"]);
        assert_eq!(by_number("v1.0", "v1.0"), Ordering::Equal);
    }

    #[test]
    fn images_of_the_same_time_go_by_the_tags_before_the_given_one() {
        let tags = |tags: &[&str]| tags.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (first, second) = (tags(&["1.9", "old"]), tags(&["1.10"]));
        let place = |tags: &[String]| InTime(None, last_below(tags, Some("1.11")).unwrap().to_owned());
        assert_eq!(place(&first), InTime(None, "1.9".into()));
        assert!(place(&first) < place(&second));
        let made = |text: &str| text.parse::<Created>().ok();
        let (old, new) = (made("2024-01-01T00:00:00Z"), made("2024-01-02T00:00:00Z"));
        assert!(old < new && InTime(new, "1".into()) > InTime(old, "2".into()));
        assert!(is_before(old, &second, new, Some("1.9")) && !is_before(new, &first, old, Some("2")));
        assert!(is_before(new, &first, new, Some("1.10")) && !is_before(new, &second, new, Some("1.10")));
        assert!(is_before(None, &first, new, None) && !is_before(new, &first, new, None));
    }

    #[test]
    fn tags_of_artifacts_are_no_images() {
        let hex = "0a".repeat(32);
        assert!(is_of_artifact(&format!("sha256-{hex}")) && is_of_artifact(&format!("sha256-{hex}.sig")));
        assert!(!is_of_artifact("sha256-of-it") && !is_of_artifact(&hex));
    }

    #[test]
    fn an_expression_is_for_the_whole_tag() {
        let pattern = whole("v[0-9]+|main").unwrap();
        assert!(pattern.is_match("v12") && pattern.is_match("main"));
        assert!(!pattern.is_match("v12-rc") && !pattern.is_match("domain"));
        assert_eq!(whole("v(").unwrap_err().kind, Kind::Usage);
    }
}
