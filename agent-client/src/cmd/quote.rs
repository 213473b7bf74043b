//! `aro quote`: what a fetch would cost.

use aro_proto::Address;
use clap::Args;
use serde_json::json;

use super::Span;
use crate::Global;
use crate::output::{Failure, Output};

#[derive(Args)]
pub(crate) struct QuoteCommand {
    /// aro://<content id>@<node id>@<host>:<port>
    address: Address,
    /// Only these bytes, first and last, counted from 0; may be given again
    #[arg(long = "range", value_name = "START-END")]
    spans: Vec<Span>,
}

impl QuoteCommand {
    pub(crate) async fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        let ranges = super::ranges(&self.spans)?;
        let agent = global.agent(None).await?;
        let quoted = agent.quote(&self.address, ranges).await;
        agent.close().await;
        let quote = quoted?;
        let object = json!({
            "content": quote.content.to_string(),
            "node": self.address.node().to_string(),
            "size": quote.size,
            "content_bytes": quote.content_bytes,
            "price": quote.price,
            "price_per_mib": quote.tariff.per_mib,
            "valid_until": quote.valid_until,
        });
        output.result(&object, || {
            format!("{} $ARO for {} bytes of {}", quote.price, quote.content_bytes.get(), quote.size.get())
        })
    }
}
