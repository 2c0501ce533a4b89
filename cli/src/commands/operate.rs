//! `watch`, `cancel`, `agents`: what people do at a controller.

use super::run::{follow, show};
use crate::client::{connect, refused, report};
use crate::exit::Done;
use crate::output::{print, print_json};
use crate::table;
use tuplelab_proto::dial::Address;
use tuplelab_proto::v1::{CancelRequest, GetRunRequest, ListAgentsRequest};

/// Follows a run, then shows it.
pub async fn watch(run: String, controller: Address) -> Done {
    let mut client = connect(&controller).await?;
    client.get_run(GetRunRequest { run: run.clone() }).await.map_err(refused)?;
    follow(&mut client, &run, || Ok(None)).await?;
    show(&report(&mut client, &run).await?, false)
}

/// Cancels a run.
pub async fn cancel(run: String, controller: Address) -> Done {
    let mut client = connect(&controller).await?;
    let reply = client.cancel(CancelRequest { run }).await.map_err(refused)?;
    print(&format!("run {} is being cancelled", reply.into_inner().run))
}

/// Lists agents; as JSON it is an inventory that `check --inventory` reads.
pub async fn agents(json: bool, controller: Address) -> Done {
    if json {
        return print_json(&super::check::ask_inventory(&controller).await?);
    }
    let mut client = connect(&controller).await?;
    let agents = client.list_agents(ListAgentsRequest {}).await.map_err(refused)?.into_inner().agents;
    print(&table::agents(&agents))
}
