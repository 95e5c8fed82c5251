-- name: list
-- Acts, newest first. $1 a part of who, $2 the act or what stands before its dot, $3 a name or an id
-- anywhere in the target, $4 the lowest id, $5 the id above the highest, $6 how many. A null filters
-- nothing.
SELECT id, at, who, act, target::text AS target, result::text AS result
FROM gateway.acts
WHERE id >= $4 AND id < $5
  AND ($1::text IS NULL OR strpos(lower(who), lower($1)) > 0)
  AND ($2::text IS NULL OR act = $2 OR starts_with(act, $2 || '.'))
  AND ($3::text IS NULL
       OR jsonb_path_exists(target, '$.** ? (@ == $wanted)', jsonb_build_object('wanted', $3::text)))
ORDER BY id DESC
LIMIT $6
