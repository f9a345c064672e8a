//! An OpenAI-compatible server on loopback, with limits and faults, for first trials and for tests.
//!
//! It speaks real HTTP. It answers a prompt with a text that depends on the prompt alone ([`answer_to`]), with an
//! instance of the JSON Schema that a request carries, or with vectors ([`embedding_of`]). It counts what it receives
//! and answers. Unknown routes and values are refused, and the routes recorded.

mod answer;
mod api_kind;
mod batch_shapes;
mod batch_work;
mod batches;
mod chat;
mod chat_request;
mod counts;
mod embeddings;
mod files;
mod gate;
mod hold;
mod instance;
mod limit;
mod list_pages;
mod malformed;
mod model;
mod reply;
mod server;
mod signed_uploads;
mod state;
mod stored;
mod structured;
mod tiers;

pub use answer::{answer_to, choose};
pub use counts::{BatchCounts, Counts};
pub use embeddings::embedding_of;
pub use gate::fault_for;
pub use hold::Gate;
pub use instance::instance_of;
pub use model::{ModelRefusal, SimulatedModel};
pub use server::Simulator;
