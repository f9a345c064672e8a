//! The drain of a service: outcomes for those who wait for them.

use std::sync::Arc;

use super::register::BatchRegister;
use crate::ident::Lineage;
use crate::rows::FilledBatch;
use crate::run::{Delivery, Drain, RunError};
use crate::sink::ServedColumns;

/// Hands filled batches to those who wait for them.
pub(super) struct ServedDrain {
    pub(super) register: Arc<BatchRegister>,
    pub(super) columns: Arc<ServedColumns>,
}

impl Drain for ServedDrain {
    async fn commit(&mut self, batch: &FilledBatch, _: Lineage) -> Result<Option<Delivery>, RunError> {
        let rows = self.columns.of(batch).map_err(|error| RunError::Task(error.to_string()))?;
        self.register.fill(batch.plan.id, rows);
        Ok(Some(Delivery::HandedOver))
    }
}
