//! `kup history`.

use super::{Context, Exit, output};
use crate::bus::Error;
use crate::update::HistoryLine;

pub(super) async fn history(context: &Context) -> Result<Exit, Error> {
    let lines = context.manager.history().await?;
    let lines: Result<Vec<HistoryLine>, _> = lines.iter().map(|l| serde_json::from_str(l)).collect();
    let lines = lines.map_err(|e| Error::Failed(format!("kupd's history is not understood: {e}")))?;
    context.out.show(&lines, |lines| output::history(lines));
    Ok(Exit::Ok)
}
