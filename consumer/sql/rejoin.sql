-- name: rejoin_users
SELECT 1 WHERE $1::bigint[] IS NULL
