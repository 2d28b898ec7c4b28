//! Compressed members: contents opened and packed again, opened forms and parameters that nobody wrote, and encoders.
//!
//! Layout: a byte that says what, 2 bytes of length of parameters, the parameters (of an encoder its number), the content or the opened form. What is
//! opened in part has the places as parameters; without, those that a central directory tells, and those that are
//! found.

#![no_main]

use d4c_fuzz::Bounded;
use d4c_fuzz::parts::Parts;
use dimg::engine::deflate::Encoder;
use dimg::engine::frame::ParameterFrame;
use dimg::engine::member::{
    MAX_OPENED_BYTES, Plan, comes_back, deflated, find_parameters, find_streams, form_version, pack,
    packs_to, places, version,
};
use libfuzzer_sys::fuzz_target;
use std::ops::Range;

/// Opened forms above this size are not packed again by every compressor there is: it would take seconds.
const SLOW_BYTES: u64 = 128 << 10;

fuzz_target!(|input: &[u8]| {
    let mut parts = Parts(input);
    let (what, length) = (parts.byte(), parts.short());
    let (parameters, rest) = (parts.take(length.into()), parts.0);
    match what % 5 {
        0 => opened(rest),
        1 => packed(rest, parameters),
        2 => frame(rest),
        3 => encoded(parameters.first().copied().unwrap_or_default(), rest),
        _ if parameters.is_empty() => {
            some(rest, &places_of(rest, Some(0..rest.len())));
            some(rest, &places(rest, find_streams(rest).iter()));
        }
        _ => some(rest, parameters),
    }
});

/// What opens comes back, bit for bit, or is seen not to; and so does its opened form.
fn opened(content: &[u8]) {
    let Some(plan) = Plan::of(content, MAX_OPENED_BYTES) else { return };
    let form = open(&plan, content);
    assert_eq!(form.len() as u64, plan.opened_bytes());
    assert!(Plan::of(content, plan.opened_bytes()).is_some(), "the limit is what it may have");
    assert!(Plan::of(content, plan.opened_bytes() - 1).is_none(), "the limit is what it may have");
    if plan.opened_bytes() > SLOW_BYTES {
        return;
    }
    let parameters = find_parameters(&plan, content, &form, 1).expect("streams that were inflated").encode();
    // A record of a zip file that begins in another one cannot be told in the opened form: makers of patches look.
    let packs = packs_to(&form, &parameters, content);
    assert_eq!(packs, comes_back(&plan, &form, content), "streams as they are tell something else");
    assert!(packs || content.starts_with(b"PK") || version(content) == 5, "something else comes back");
    if version(&form) == 5 {
        opened(&form);
    }
}

/// The same of a content opened in part.
fn some(content: &[u8], places: &[u8]) {
    let mut form = Vec::new();
    let plan = Plan::open_some(content, places, MAX_OPENED_BYTES, &mut form);
    let Some(plan) = plan.expect("memory can be written") else { return };
    assert_eq!(form.len() as u64, plan.opened_bytes());
    let mut short = Vec::new();
    let less = Plan::open_some(content, places, plan.opened_bytes() - 1, &mut short);
    assert!(less.expect("memory can be written").is_none(), "the limit is what it may have");
    let archives = plan.archives(&form);
    assert!(archives.iter().all(|archive| form[archive.clone()].starts_with(b"PK")));
    if plan.opened_bytes() > SLOW_BYTES {
        return;
    }
    let parameters = find_parameters(&plan, content, &form, 1).expect("streams that were inflated").encode();
    let packs = packs_to(&form, &parameters, content);
    assert_eq!(packs, comes_back(&plan, &form, content), "streams as they are tell something else");
    let inner = places_of(&form, archives);
    if !inner.is_empty() {
        some(&form, &inner);
    }
}

fn places_of(content: &[u8], archives: impl IntoIterator<Item = Range<usize>>) -> Vec<u8> {
    places(content, deflated(content, archives).iter())
}

fn open(plan: &Plan, content: &[u8]) -> Vec<u8> {
    let mut form = Vec::new();
    plan.unpack(content, &mut form).expect("what was looked through opens");
    let mut at_once = Vec::new();
    let found = Plan::open(content, MAX_OPENED_BYTES, &mut at_once).expect("memory can be written");
    assert!(found.is_some() && at_once == form, "looking and opening at once give something else");
    form
}

/// Forms and parameters of others make as many bytes as is said, or are refused.
fn packed(form: &[u8], parameters: &[u8]) {
    let mut all = Vec::new();
    let _ = pack(form, parameters, u64::MAX, &mut all);
    // A stream that cannot be made smaller takes 5 bytes for each 16 KiB and less; frames around it are no longer than in the form.
    // The header of a block in a `.xz` file may have 252 bytes.
    // A record of bitcode that has nothing but literals is a byte in a form, and up to 32 bits.
    // A segment of WebAssembly may be a byte and a zero in a form, and has its address and length before it.
    let times = match form_version(form) {
        2 => 16,
        4 => 8,
        _ => 2,
    };
    let most = times * (form.len() + parameters.len()) + 64 + if form_version(form) == 3 { 252 } else { 0 };
    assert!(all.len() <= most, "{} bytes made, {most} expected at most", all.len());
    let count = all.len() as u64;
    let fits = packs_to(form, parameters, &all);
    let short = pack(form, parameters, count / 2, &mut Bounded { left: count / 2 });
    assert!(short.is_err() || count == 0 || !fits, "half of it is not all");
    if fits && let Some(plan) = Plan::of(&all, MAX_OPENED_BYTES) {
        open(&plan, &all);
    }
}

fn frame(frame: &[u8]) {
    let Ok(group) = ParameterFrame::parse(frame).and_then(|frame| frame.group()) else { return };
    let mut slot = 0;
    while let Ok(parameters) = group.parameters(slot) {
        packed(&[1, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, b'x', b'y'], parameters);
        slot += 1;
        if slot == 8 {
            break;
        }
    }
}

/// What an encoder makes inflates again.
fn encoded(code: u8, input: &[u8]) {
    let Some(encoder) = Encoder::from_code(code) else { return };
    let header: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let mut content = header.to_vec();
    encoder.encode(input, &mut content).expect("memory can be written");
    // Its trailer, which another encoder makes as well.
    let form = [&[1][..], &header, input].concat();
    let mut whole = Vec::new();
    let result = pack(&form, &[1, encoder.code()], content.len() as u64 + 8, &mut whole);
    result.expect("it is as long as the stream, and the trailer");
    assert!(whole.starts_with(&content));
    let plan = Plan::of(&whole, MAX_OPENED_BYTES).expect("an encoder makes streams");
    assert_eq!(open(&plan, &whole), form);
}
