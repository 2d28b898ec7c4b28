//! Which of a repository's images came before another one: by the time in their configs, and where that is the same or missing by their tags.

use std::cmp::Ordering;

use d4c_image::created::Created;

/// Whether an image with these tags is older than one made at `created` with the tag `tag`.
pub(super) fn is_before(
    made: Option<Created>,
    tags: &[String],
    created: Option<Created>,
    tag: Option<&str>,
) -> bool {
    match made.cmp(&created) {
        Ordering::Less => true,
        Ordering::Greater => false,
        Ordering::Equal => tag.is_some() && last_below(tags, tag).is_some(),
    }
}

/// The last of `tags`, which are in their order, of those before `tag`.
pub(super) fn last_below<'a>(tags: &'a [String], tag: Option<&str>) -> Option<&'a str> {
    let below = |other: &&String| tag.is_none_or(|tag| by_number(other, tag).is_lt());
    tags.iter().rev().find(below).map(String::as_str)
}

/// An image's time and tag, in this order.
#[derive(Debug, Eq)]
pub(super) struct InTime(pub(super) Option<Created>, pub(super) String);

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
pub(super) fn by_number(one: &str, other: &str) -> Ordering {
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
}
