//! Layer indexes: an image's own, and edits of a parent's.
//!
//! The first byte says which: 0 for `decode_layers`; else an edit of so many layers, each of them claimed by two bytes: 0xffff is the parent's layer 0.

#![no_main]

use d4c_fuzz::images::Image;
use d4c_fuzz::parts::Parts;
use dimg::index::edit::LayerClaim;
use dimg::index::{Edit, LayerIndex, decode_layers, encode_layers, layer_id};
use libfuzzer_sys::{Corpus, fuzz_target};
use std::sync::{Arc, LazyLock};

static PARENT: LazyLock<Vec<Arc<LayerIndex>>> = LazyLock::new(|| Image::old().indexes());

fuzz_target!(|input: &[u8]| -> Corpus {
    let mut parts = Parts(input);
    let count = parts.byte();
    if count == 0 {
        let Ok(layers) = decode_layers(parts.0) else { return Corpus::Keep };
        again(&layers);
        return Corpus::Keep;
    }
    let claims: Vec<_> = (0..count)
        .map(|_| match parts.short() {
            u16::MAX => LayerClaim::Same(0),
            entries => LayerClaim::Entries(entries.into()),
        })
        .collect();
    let Ok(edit) = Edit::decode(parts.0, &claims) else { return Corpus::Keep };
    edit.origins();
    let Ok(layers) = edit.apply(&PARENT) else { return Corpus::Keep };
    again(&layers);
    let found = Edit::between(&PARENT, &layers).expect("two images have a difference");
    assert_eq!(found.apply(&PARENT).expect("the difference fits"), layers);
    Corpus::Keep
});

/// What was decoded is encoded and comes back.
fn again(layers: &[Arc<LayerIndex>]) {
    let encoded = encode_layers(layers).expect("what was decoded is within the limits");
    let decoded = decode_layers(&encoded).expect("what was encoded is decoded");
    // Shapes may be numbered otherwise: the ids are of what the layers say.
    let ids = |layers: &[Arc<LayerIndex>]| layers.iter().map(|layer| layer_id(layer)).collect::<Vec<_>>();
    assert_eq!(ids(&decoded), ids(layers));
}
