//! Losses that upstreams are to be told of: added in the transaction that drops, taken off in the one that appends the report.

use std::sync::Arc;

use crate::journal::TargetId;
use crate::journal::losses::Loss;
use crate::protocol::category::Category;
use crate::protocol::client_report::Reason;

use super::fault::Fault;
use super::shared::Shared;
use super::work::Work;

/// Adds losses that no record tells of.
pub(super) async fn add(shared: &Arc<Shared>, told: &[Loss]) -> Result<(), Fault> {
    Work::run(shared, async |work| {
        for loss in told {
            let project = shared.project(&loss.project).await?;
            work.book.lose(project, loss);
        }
        Ok(())
    })
    .await
}

/// All losses that are to be told.
pub(super) async fn read(shared: &Shared) -> Result<Vec<Loss>, Fault> {
    let client = shared.client().await?;
    let sql =
        "SELECT l.target, p.name, l.reason, l.category, l.quantity FROM loss l JOIN project p ON p.id = l.project";
    let rows = client.query(sql, &[]).await?;
    // Reasons and categories of a newer version are left to it.
    let loss = |row: &tokio_postgres::Row| {
        Some(Loss {
            target: TargetId(u8::try_from(row.get::<_, i16>(0)).ok()?),
            project: row.get::<_, &str>(1).into(),
            reason: Reason::from_name(row.get(2))?,
            category: Category::from_name(row.get(3))?,
            quantity: row.get::<_, i64>(4).cast_unsigned(),
        })
    };
    Ok(rows.iter().filter_map(loss).collect())
}

/// Takes off the losses that are told.
pub(super) async fn take_off(work: &Work, told: &[Loss]) -> Result<(), Fault> {
    let mut rows = Vec::new();
    for Loss { target, project, reason, category, quantity } in told {
        let project = work.shared.project(project).await?;
        rows.push((i16::from(target.0), project, *reason, *category, quantity.cast_signed()));
    }
    // In the order in which drops count losses, so that no two relays wait for each other.
    rows.sort_unstable();
    for (target, project, reason, category, quantity) in rows {
        work.execute(
            "UPDATE loss SET quantity = quantity - $5 WHERE target = $1 AND project = $2 AND reason = $3 AND category = $4",
            &[&target, &project, &reason.name(), &category.name(), &quantity],
        )
        .await?;
    }
    work.execute("DELETE FROM loss WHERE quantity <= 0", &[]).await
}
