-- Writes a job, and that all its shards are still to be gone through. May be sent again.
--
-- Returns 1 if it is there now, or 0 if another selection's job has this ID.

local jobs, open_jobs, job, work = unpack(KEYS)
local job_id, selection, counted, shards, actor, request_id = unpack(ARGV, 2)

local existing = redis.call('HGET', job, 'selection')
if existing then
  return existing == selection and 1 or 0
end
redis.call('HSET', job, 'selection', selection, 'by', actor, 'counted', counted, 'created_at_ms', now_ms)
redis.call('ZREMRANGEBYSCORE', jobs, '-inf', now_ms - JOB_KEPT_MS)
redis.call('ZADD', jobs, now_ms, job_id)
redis.call('ZADD', open_jobs, now_ms, job_id)
for number = 0, shards - 1 do
  redis.call('ZADD', work, 0, number)
end
for _, key in ipairs({jobs, open_jobs, job, work}) do
  redis.call('PEXPIRE', key, JOB_KEPT_MS)
end
audit{who = actor, request_id = request_id, what = 'job_started', job = job_id,
  detail = job_id .. ': ' .. selection .. ', ' .. counted .. ' counted'}
return 1
