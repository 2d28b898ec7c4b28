//! Property tests of edits, one test per check of their decoding, and sizes that must hold.

use super::testing::{image, series};
use super::*;
use crate::engine::compress::Level;
use proptest::prelude::*;

fn claims(edit: &Edit) -> Vec<LayerClaim> {
    let claim = |layer: &LayerEdit| match layer {
        LayerEdit::Same(same) => LayerClaim::Same(*same),
        LayerEdit::Edited(edited) => LayerClaim::Entries(edited.entries() as u64),
    };
    edit.layers.iter().map(claim).collect()
}

fn round(edit: &Edit) -> Edit {
    let columns = edit.encode().unwrap();
    let decoded = Edit::decode(&columns.to_raw(), &claims(edit)).unwrap();
    let packed = columns.to_packed(Level::Fast).unwrap();
    assert_eq!(Edit::decode(&packed, &claims(edit)).unwrap(), decoded);
    decoded
}

proptest! {
    #[test]
    fn edits_come_back_and_make_the_target(images in series(2)) {
        let (parent, target) = (&images[0], &images[1]);
        let edit = Edit::between(parent, target).unwrap();
        prop_assert_eq!(&round(&edit), &edit);
        prop_assert_eq!(&edit.apply(parent).unwrap(), target);
        let known: Vec<_> = parent.iter().flat_map(|layer| layer.contents()).collect();
        prop_assert!(edit.new_contents.iter().all(|content| !known.contains(content)));
        prop_assert_eq!(edit.origins().len(), edit.new_contents.len());
    }

    #[test]
    fn nothing_changed_is_nothing_to_say(image in image()) {
        let edit = Edit::between(&image, &image).unwrap();
        prop_assert!(edit.layers.iter().all(|layer| matches!(layer, LayerEdit::Same(_))));
        prop_assert_eq!(edit.encode().unwrap().to_raw(), vec![0]);
    }

    #[test]
    fn a_layer_id_is_that_of_the_layer_alone(image in image()) {
        for layer in image {
            let whole = Edit::whole(std::slice::from_ref(&layer)).unwrap();
            prop_assert_eq!(layer_id(&layer), Digest::of(&whole.encode().unwrap().to_raw()));
        }
    }

    #[test]
    fn another_parent_is_an_error_or_harmless(images in series(3)) {
        let edit = Edit::between(&images[0], &images[1]).unwrap();
        let _ = edit.apply(&images[2]);
        let _ = edit.apply(&[]);
    }

    #[test]
    fn damage_is_an_error_or_harmless(images in series(2), at: prop::sample::Index, byte: u8) {
        let edit = Edit::between(&images[0], &images[1]).unwrap();
        let mut bytes = edit.encode().unwrap().to_raw();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(edit) = Edit::decode(&bytes, &claims(&edit)) {
            let _ = edit.apply(&images[0]);
            prop_assert!(edit.encode().is_ok());
        }
        for length in 0..bytes.len() {
            let _ = Edit::decode(&bytes[..length], &claims(&edit));
        }
    }
}
