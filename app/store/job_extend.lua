-- Keeps the claim on a shard of a job's work for another lease; a shard that was struck off stays so. A script only
-- because it must work when Redis is full. May be sent again.
--
-- KEYS  1 the job's work
-- ARGV  2 shard   3 lease_ms
-- Returns nothing of use.

return redis.call('ZADD', KEYS[1], 'XX', 'GT', now_ms + ARGV[3], ARGV[2])
