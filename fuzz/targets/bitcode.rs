//! LLVM bitcode: contents and opened forms that are always taken for bitcode, so that every run is one of its opener or its packer.
//!
//! Layout: a byte that says what and how it is begun, the content or the opened form without its beginning.

#![no_main]

use d4c_fuzz::Bounded;
use dimg::engine::member::{MAX_OPENED_BYTES, Plan, comes_back, find_parameters, pack, packs_to};
use libfuzzer_sys::fuzz_target;

/// How bitcode begins, and how a wrapper of it does.
const MAGICS: [&[u8]; 2] = [b"BC\xc0\xde", b"\xde\xc0\x17\x0b"];

fuzz_target!(|input: &[u8]| {
    let Some((&what, rest)) = input.split_first() else { return };
    if what & 1 == 0 {
        opened(&[MAGICS[usize::from(what >> 1 & 1)], rest].concat());
    } else {
        packed(&[MAGICS[0], rest].concat());
    }
});

/// What opens comes back, bit for bit, from forms of bounded size.
fn opened(content: &[u8]) {
    let Some(plan) = Plan::of(content, MAX_OPENED_BYTES) else { return };
    let mut form = Vec::new();
    plan.unpack(content, &mut form).expect("what was looked through opens");
    assert_eq!(form.len() as u64, plan.opened_bytes());
    // Each number of a content takes a bit at least, and two bytes or so of the form.
    assert!(form.len() <= 64 * content.len() + 1024, "{} bytes of {}", form.len(), content.len());
    let parameters = find_parameters(&plan, content, &form, 1).expect("it was opened").encode();
    assert!(
        comes_back(&plan, &form, content) && packs_to(&form, &parameters, content),
        "something else comes back"
    );
    packed(&form);
}

/// Forms of others make contents of bounded size, the same each time, and never more than is allowed.
fn packed(form: &[u8]) {
    let mut all = Vec::new();
    // Nothing is as long as that: it fails in the end, with all that it makes written.
    let _ = pack(form, &[], u64::MAX, &mut all);
    // A record that has nothing but literals is a byte in a form, and up to 32 bits.
    assert!(all.len() <= 16 * form.len() + 64, "{} bytes made of {}", all.len(), form.len());
    let count = all.len() as u64;
    let mut again = Vec::new();
    let made = pack(form, &[], count, &mut again);
    assert_eq!(made.is_ok(), packs_to(form, &[], &all), "packing and comparing tell something else");
    assert!(made.is_err() || all == again, "the same is made twice");
    let short = pack(form, &[], count / 2, &mut Bounded { left: count / 2 });
    assert!(short.is_err() || count == 0, "half of it is not all");
}
