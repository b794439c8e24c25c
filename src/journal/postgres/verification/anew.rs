//! An event that is delivered again is looked up again.

use crate::clock::Timestamp;
use crate::journal::TargetId;
use crate::journal::postgres::fault::Fault;
use crate::journal::postgres::record::ms;
use crate::journal::postgres::work::Work;
use crate::journal::verification::{LOOKING, first_try};

/// Notes that records with errors wait for a target again, each with its project and due time. Those below the cursor are looked up once
/// more.
pub(in crate::journal::postgres) async fn look_again(
    work: &Work,
    target: TargetId,
    mut all: Vec<(i64, i32, Timestamp)>,
) -> Result<(), Fault> {
    if all.is_empty() {
        return Ok(());
    }
    all.sort_by_key(|(id, ..)| *id);
    let now = work.now();
    let ids: Vec<i64> = all.iter().map(|(id, ..)| *id).collect();
    let projects: Vec<i32> = all.iter().map(|(_, project, _)| *project).collect();
    let dues: Vec<i64> = all.iter().map(|(.., due)| ms(first_try(*due, now))).collect();
    work.execute(
        "INSERT INTO look (target, record, project, state, due, looks, since, repairs)
         SELECT $1, r, p, $5, d, 0, d, 0 FROM unnest($2::bigint[], $3::int[], $4::bigint[]) AS u(r, p, d)
         JOIN verification v ON v.target = $1 AND v.incarnation = (r >> 40)::int AND v.reached >= r
         ON CONFLICT (target, record) DO UPDATE SET state = excluded.state, due = excluded.due, looks = 0",
        &[&i16::from(target.0), &ids, &projects, &dues, &LOOKING],
    )
    .await
}
