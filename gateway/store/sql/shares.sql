-- name: buy
-- What it does and why that is safe: see the function.
SELECT granted, from_seconds, until_seconds, exclusive, contended, retry_seconds
FROM gateway.buy_calls($1, $2, $3, $4::int[], $5::float8[], $6::float8[], $7::int[], $8, $9, $10, $11,
                       $12, $13, $14, $15)
