//! The actors on the fake engine: whole responses, readers that leave, engines that die, bounds and
//! drains.

mod admission;
mod faults;
mod leaving;
mod streams;
mod world;
