-- Adds what one instance counted to the minutes it belongs to, and what it saw of the cloud to what all saw.
-- May be sent again: of each instance's batches only one with a higher number than the last is taken.
--
-- `ok_at_ms`, `since_ms`, `failed_at_ms`: the last success, the first failure since then, and the last failure, with its
-- action, kind and code; Unix ms, 0: none
-- `counts`: by threes: the place in `minutes`, what was counted, how many
-- Returns 1, or 0 for a batch that was taken before.

local batch, cloud = unpack(KEYS)
local minutes = {unpack(KEYS, 3)}
local batch_number, keep_ms, keep_seen_ms, ok_at_ms, since_ms, failed_at_ms, action, kind, code = unpack(ARGV, 2)
local counts = {unpack(ARGV, 11)}

if tonumber(batch_number) <= tonumber(redis.call('GET', batch) or 0) then
  return 0
end
redis.call('SET', batch, batch_number, 'PX', keep_ms)

for i = 1, #counts, 3 do
  redis.call('HINCRBY', minutes[tonumber(counts[i])], counts[i + 1], counts[i + 2])
end
for _, minute in ipairs(minutes) do
  redis.call('PEXPIRE', minute, keep_ms)
end

local ok, since, failed = tonumber(ok_at_ms), tonumber(since_ms), tonumber(failed_at_ms)
if ok == 0 and failed == 0 then
  return 1
end
local seen = redis.call('HMGET', cloud, 'ok_at_ms', 'since_ms', 'failed_at_ms')
local seen_since, seen_failed = tonumber(seen[2] or 0), tonumber(seen[3] or 0)
ok = math.max(ok, tonumber(seen[1] or 0))
if failed > seen_failed then
  redis.call('HSET', cloud, 'action', action, 'kind', kind, 'code', code)
end
failed = math.max(failed, seen_failed)
-- Since when all calls fail, at whichever instance: the earliest failure known that no success came after.
local earliest = 0
for _, at in ipairs({since, seen_since, failed}) do
  if at > ok and (earliest == 0 or at < earliest) then
    earliest = at
  end
end
local function text(at)
  return string.format('%.0f', at)
end
redis.call('HSET', cloud, 'ok_at_ms', text(ok), 'since_ms', text(earliest), 'failed_at_ms', text(failed))
redis.call('PEXPIRE', cloud, keep_seen_ms)
return 1
