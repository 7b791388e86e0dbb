//! The secret first segment of the paths at which API servers call the webhook: known only to those who may read webhook configurations.
//! Pure except for the randomness of new segments: the time is an argument.
//!
//! The Secret holds the newest segment and its predecessors, each with its creation time. A segment is published only after every replica
//! has had time to read it. Its predecessor is accepted until every API server has had time to read the new one. So a rotation never fails
//! an admission.
//!
//! Segments are short-lived, because an API server quotes the URL of a webhook that it cannot reach in the error that it returns to the
//! user.

use std::{fmt, hint::black_box, str::FromStr, sync::Arc};

use arc_swap::ArcSwapOption;
use jiff::{SignedDuration, Timestamp};
use rustls::crypto::{GetRandomFailed, aws_lc_rs};
use thiserror::Error;

use super::file::User;

/// The number of random bytes in a segment.
const BYTES: usize = 32;
/// The number of characters in a segment: two hexadecimal digits for each byte.
const LENGTH: usize = 2 * BYTES;
/// The age at which a segment is replaced.
const LIFE: SignedDuration = SignedDuration::from_hours(1);
/// The time after its creation within which every replica has read a segment: each reads the Secret every minute.
pub(super) const PUBLISHED_AFTER: SignedDuration = SignedDuration::from_mins(3);
/// The time after the creation of a successor within which every API server has read it: it is published in less than five minutes and then
/// delivered by a watch.
const ACCEPTED_AFTER_SUCCESSOR: SignedDuration = SignedDuration::from_mins(10);
/// The number of segments that are kept: the newest, and the four predecessors that may be accepted if a segment is created every three
/// minutes.
const MAX_KEPT: usize = 5;

/// A random segment. Its text is a secret, so it has no `Display` and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
struct Segment(String);

impl Segment {
    fn generate() -> Result<Self, GetRandomFailed> {
        let mut bytes = [0; BYTES];
        aws_lc_rs::default_provider().secure_random.fill(&mut bytes)?;
        let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
        Ok(Self(bytes.into_iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()))
    }

    /// Compares in constant time: it depends only on the length, which is public.
    fn equals(&self, other: &str) -> bool {
        self.0.len() == other.len()
            && self.0.bytes().zip(other.bytes()).fold(0, |difference, (a, b)| black_box(difference | (a ^ b))) == 0
    }
}

impl FromStr for Segment {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == LENGTH && text.bytes().all(is_digit) { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Segment(hidden)")
    }
}

/// The segments in use, newest first, each with its creation time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PathSegments(Vec<(Segment, Timestamp)>);

impl PathSegments {
    /// Reads the text of [`Self::to_text`]; damaged lines are skipped.
    pub(super) fn from_text(text: &str) -> Self {
        let line = |line: &str| {
            let (segment, created) = line.split_once(' ')?;
            Some((segment.parse().ok()?, created.trim().parse().ok()?))
        };
        Self::default().merged_with(&Self(text.lines().filter_map(line).collect()))
    }

    /// One line for each segment.
    pub(super) fn to_text(&self) -> String {
        let lines = self.0.iter().map(|(Segment(segment), created)| format!("{segment} {created}"));
        lines.chain([String::new()]).collect::<Vec<_>>().join("\n")
    }

    /// The segments of both.
    pub(super) fn merged_with(mut self, other: &Self) -> Self {
        for (segment, created) in &other.0 {
            if self.0.iter().all(|(known, _)| known != segment) {
                self.0.push((segment.clone(), *created));
            }
        }
        self.0.sort_by_key(|(_, created)| std::cmp::Reverse(*created));
        self.0.truncate(MAX_KEPT);
        self
    }

    /// True if a new segment is needed.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.newest().is_none_or(|created| now.duration_since(created) >= LIFE)
    }

    /// Adds a new segment, unless the newest has yet to be published: at most one is unpublished at a time.
    pub(super) fn rotated(mut self, now: Timestamp) -> Result<Self, GetRandomFailed> {
        let newest = self.newest();
        if newest.is_some_and(|created| now.duration_since(created) < PUBLISHED_AFTER) {
            return Ok(self);
        }
        self.0.insert(0, (Segment::generate()?, now));
        self.0.truncate(MAX_KEPT);
        Ok(self)
    }

    /// The path to be published for a route.
    pub(super) fn path(&self, route: &str, now: Timestamp) -> Option<String> {
        self.0.get(self.to_publish(now)).map(|(segment, _)| path(segment, route))
    }

    /// True if a published path needs no change: it is the path to be published, or a newer one that a replica with another clock has
    /// published already.
    pub(super) fn is_published(&self, present: &str, route: &str, now: Timestamp) -> bool {
        self.0.iter().take(self.to_publish(now) + 1).any(|(segment, _)| path(segment, route) == present)
    }

    /// The segments that API servers may use. Until it is certain that the right one is published, a predecessor may be.
    fn accepted(&self, now: Timestamp, is_published: bool) -> Vec<Segment> {
        let successors = [None].into_iter().chain(self.0.iter().map(|(_, created)| Some(*created)));
        let accepted = self.0.iter().zip(successors).filter(|(_, successor)| {
            !is_published || successor.is_none_or(|made| now.duration_since(made) < ACCEPTED_AFTER_SUCCESSOR)
        });
        accepted.map(|((segment, _), _)| segment.clone()).collect()
    }

    fn newest(&self) -> Option<Timestamp> {
        self.0.first().map(|(_, created)| *created)
    }

    /// The index of the newest segment that every replica accepts. Without such a segment it is the oldest: there is no better one at the
    /// first start.
    fn to_publish(&self, now: Timestamp) -> usize {
        let known = self.0.iter().position(|(_, created)| now.duration_since(*created) >= PUBLISHED_AFTER);
        known.unwrap_or(self.0.len().saturating_sub(1))
    }
}

fn path(Segment(segment): &Segment, route: &str) -> String {
    format!("/{segment}{route}")
}

/// A text contains no segment.
#[derive(Debug, Error)]
#[error("failed to find a segment: a line of {LENGTH} hexadecimal digits, such as `openssl rand -hex {BYTES}` prints")]
pub struct NoSegment;

/// The accepted paths. Clones share them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SecretPath(Option<Arc<ArcSwapOption<Vec<Segment>>>>);

impl SecretPath {
    /// Accepts every path: somebody else writes the webhook configurations, and there is no segment.
    pub fn open() -> Self {
        Self(None)
    }

    /// Accepts only paths with a segment in this text, which has one segment a line.
    pub fn from_text(text: &str) -> Result<Self, NoSegment> {
        let path = Self::secret();
        path.accept_text(text)?;
        Ok(path)
    }

    /// Accepts no path before [`Self::accept`] or [`Self::accept_text`].
    pub(super) fn secret() -> Self {
        Self(Some(Arc::default()))
    }

    /// Accepts these segments from now on.
    pub(super) fn accept(&self, segments: &PathSegments, now: Timestamp, is_published: bool) {
        self.store(segments.accepted(now, is_published));
    }

    fn accept_text(&self, text: &str) -> Result<(), NoSegment> {
        let segments: Result<Vec<Segment>, ()> = text.split_whitespace().map(str::parse).collect();
        self.store(segments.ok().filter(|segments| !segments.is_empty()).ok_or(NoSegment)?);
        Ok(())
    }

    fn store(&self, segments: Vec<Segment>) {
        if let Some(accepted) = &self.0 {
            accepted.store(Some(Arc::new(segments)));
        }
    }

    /// The route that follows an accepted segment. The time to find none discloses nothing about the segments.
    pub fn route<'a>(&self, path: &'a str) -> Option<&'a str> {
        let Some(accepted) = &self.0 else { return Some(path) };
        let (segment, route) = path.strip_prefix('/')?.split_at_checked(LENGTH)?;
        let accepted = accepted.load();
        let matches = accepted.iter().flat_map(|accepted| accepted.iter());
        let is_accepted = matches.fold(false, |found, accepted| found | accepted.equals(segment));
        (is_accepted && route.starts_with('/')).then_some(route)
    }
}

/// An admin's segments, from a file.
impl User<1> for SecretPath {
    type Error = NoSegment;

    fn take(&self, [text]: &[Vec<u8>; 1], _: Timestamp) -> Result<(), NoSegment> {
        self.accept_text(str::from_utf8(text).map_err(|_| NoSegment)?)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ROUTE: &str = "/mutate";

    fn at(seconds: i64) -> Timestamp {
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
    }

    fn accepts(segments: &PathSegments, path: &str, now: Timestamp, is_published: bool) -> bool {
        let secret = SecretPath::secret();
        secret.accept(segments, now, is_published);
        secret.route(path) == Some(ROUTE)
    }

    #[test]
    fn segments_are_random_and_survive_being_stored() {
        let one = PathSegments::default().rotated(at(0)).unwrap();
        assert_ne!(one, PathSegments::default().rotated(at(0)).unwrap());
        let two = one.clone().rotated(at(3600)).unwrap();
        assert_eq!(two.0.len(), 2);
        assert_eq!(PathSegments::from_text(&two.to_text()), two);
        let damaged = format!("rubbish\n{} yesterday\n{}", "a".repeat(LENGTH), one.to_text());
        assert_eq!(PathSegments::from_text(&damaged), one);
        assert!(PathSegments::from_text("short 2026-01-01T00:00:00Z").is_due(at(0)));
    }

    #[test]
    fn a_segment_is_not_shown() {
        let segments = PathSegments::default().rotated(at(0)).unwrap();
        let secret = SecretPath::secret();
        secret.accept(&segments, at(0), true);
        let shown = format!("{segments:?} {secret:?}");
        assert!(!shown.contains(&segments.0[0].0.0), "{shown}");
    }

    #[test]
    fn nothing_but_an_accepted_segment_and_a_route_is_a_path() {
        let segments = PathSegments::default().rotated(at(0)).unwrap();
        let secret = SecretPath::secret();
        let path = segments.path(ROUTE, at(0)).unwrap();
        assert_eq!(secret.route(&path), None, "nothing is accepted yet");
        secret.accept(&segments, at(0), true);
        assert_eq!(secret.route(&path), Some(ROUTE));
        let segment = segments.0[0].0.0.clone();
        for end in 0..segment.len() {
            let mut other = path.clone();
            let character = if segment[end..].starts_with('0') { "1" } else { "0" };
            other.replace_range(end + 1..end + 2, character);
            assert_eq!(secret.route(&other), None, "one character differs");
            assert_eq!(secret.route(&format!("/{}{ROUTE}", &segment[..end])), None, "a part of it");
        }
        let others =
            ["", "/", "//", ROUTE, "*", &segment, &format!("/{segment}"), &format!("/{segment}0{ROUTE}"), "/é"];
        for other in others.into_iter().map(str::to_owned).chain([
            format!("//{segment}{ROUTE}"),
            format!("/{}{ROUTE}", segment.to_uppercase()),
            format!("/{}é{ROUTE}", &segment[..LENGTH - 1]),
            format!("{ROUTE}/{segment}"),
        ]) {
            assert_eq!(secret.route(&other), None, "{other}");
        }
        assert_eq!(SecretPath::open().route(ROUTE), Some(ROUTE));
    }

    #[rstest]
    #[case::nothing("")]
    #[case::spaces(" \n")]
    #[case::short("abc")]
    #[case::a_good_one_and_a_bad_one("0000000000000000000000000000000000000000000000000000000000000000\nabc")]
    #[case::capitals("ABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCD")]
    fn a_text_without_good_segments_changes_nothing(#[case] text: &str) {
        let [one, two] = ["1", "2"].map(|digit| digit.repeat(LENGTH));
        let path = SecretPath::from_text(&format!("{one}\n{two}\n")).unwrap();
        assert!(path.take(&[text.into()], at(0)).is_err() && SecretPath::from_text(text).is_err());
        assert!([&one, &two].iter().all(|segment| path.route(&format!("/{segment}{ROUTE}")) == Some(ROUTE)));
        path.take(&[two.clone().into_bytes()], at(0)).unwrap();
        assert_eq!(path.route(&format!("/{one}{ROUTE}")), None);
    }

    /// Two replicas: one rotates, the other reads the Secret `lag` seconds later. Every published path is always accepted by both.
    #[rstest]
    #[case::at_once(0)]
    #[case::by_the_timer(60)]
    #[case::late(170)]
    fn what_is_published_is_accepted_by_every_replica(#[case] lag: i64) {
        let first = PathSegments::default().rotated(at(0)).unwrap();
        let old = first.path(ROUTE, at(0)).unwrap();
        let second = first.clone().rotated(at(3600)).unwrap();
        let mut published = vec![(0, old.clone())];
        for now in 3600..5000 {
            let path = second.path(ROUTE, at(now)).unwrap();
            if published.last().unwrap().1 != path {
                published.push((now, path));
            }
            let other = if now < 3600 + lag { &first } else { &second };
            // The paths that an API server may have read: the last one, or the one before for 30 s.
            let heard = published.iter().rev().enumerate().filter(|(index, (since, _))| {
                *index == 0 || published[published.len() - index].0 + 30 > now && *since <= now
            });
            for (_, (_, path)) in heard {
                for replica in [&second, other] {
                    assert!(accepts(replica, path, at(now), true), "after {} s", now - 3600);
                }
            }
        }
        assert_eq!(published.len(), 2);
        assert!(!accepts(&second, &old, at(4999), true), "the predecessor is not accepted for ever");
        assert!(accepts(&second, &old, at(4999), false), "but it is while it may be the published one");
    }

    #[test]
    fn a_newer_path_is_not_taken_back() {
        let segments = PathSegments::default().rotated(at(0)).unwrap().rotated(at(3600)).unwrap();
        let [newer, older] = [0, 1].map(|index| path(&segments.0[index].0, ROUTE));
        assert!(segments.is_published(&older, ROUTE, at(3600)) && segments.is_published(&newer, ROUTE, at(3600)));
        let later = at(3600) + PUBLISHED_AFTER;
        assert!(!segments.is_published(&older, ROUTE, later) && segments.is_published(&newer, ROUTE, later));
        assert!(!segments.is_published(ROUTE, ROUTE, later));
    }

    #[test]
    fn one_segment_is_on_its_way_at_a_time_and_few_are_kept() {
        let mut segments = PathSegments::default().rotated(at(0)).unwrap();
        assert_eq!(segments.clone().rotated(at(179)).unwrap(), segments);
        assert!(!segments.is_due(at(3599)) && segments.is_due(at(3600)));
        for round in 1..10 {
            segments = segments.rotated(at(round * 180)).unwrap();
        }
        assert_eq!(segments.0.len(), MAX_KEPT);
        // All segments that may be in use at this moment are among them.
        assert_eq!(segments.accepted(at(9 * 180), true).len(), MAX_KEPT);
    }

    #[test]
    fn who_knows_nothing_of_the_predecessors_agrees_with_who_does() {
        let old = PathSegments::default().rotated(at(0)).unwrap();
        let new = PathSegments::default().rotated(at(7200)).unwrap();
        let both = old.clone().merged_with(&new);
        let path = new.path(ROUTE, at(7200)).unwrap();
        assert!(both.is_published(&path, ROUTE, at(7200)), "it is not taken back");
        assert!(accepts(&both, &path, at(7200), true));
        assert!(accepts(&both, &old.path(ROUTE, at(7200)).unwrap(), at(7200), true));
    }
}
