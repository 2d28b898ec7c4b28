//! The cases of tiers 2 and 3: the same on every containerd.

mod demand;
mod export;
mod guarded;
mod load;
mod ordinary;
mod reference;
mod registry;
mod resumed;
mod signed;
mod source;
mod status;
mod within;
