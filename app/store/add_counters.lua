-- Adds what one instance counted to the minutes it belongs to, and how it last saw the cloud to how all last saw it.
-- May be sent again: of each instance's batches only one with a higher number than the last is taken.
--
-- `ok_at_ms`, `since_ms`, `failed_at_ms`: the last success, the first failure since then, and the last failure, with its
-- action, kind and code; Unix ms, 0: none
-- `counts`: by threes: the place in `minutes`, what was counted, how many
-- Returns 1, or 0 for a batch that was taken before.

local batch, cloud = unpack(KEYS)
local minutes = {unpack(KEYS, 3)}
local batch_number, ok_at_ms, since_ms, failed_at_ms, action, kind, code = unpack(ARGV, 2)
local counts = {unpack(ARGV, 9)}

local function add_counts()
  for i = 1, #counts, 3 do
    redis.call('HINCRBY', minutes[tonumber(counts[i])], counts[i + 1], counts[i + 2])
  end
  for _, minute in ipairs(minutes) do
    redis.call('PEXPIRE', minute, COUNTERS_KEPT_MS)
  end
end

-- Returns since when all calls fail, at whichever instance: the earliest failure known that no success came after.
local function earliest_after(ok_ms, failures)
  local earliest_ms = 0
  for _, at_ms in ipairs(failures) do
    if at_ms > ok_ms and (earliest_ms == 0 or at_ms < earliest_ms) then
      earliest_ms = at_ms
    end
  end
  return earliest_ms
end

local function text(at_ms)
  return string.format('%.0f', at_ms)
end

local function merge_cloud_health(ok_ms, since, failed_ms)
  local known = read_fields(cloud, 'ok_at_ms', 'since_ms', 'failed_at_ms')
  local known_failed_ms = tonumber(known.failed_at_ms or 0)
  if failed_ms > known_failed_ms then
    redis.call('HSET', cloud, 'action', action, 'kind', kind, 'code', code)
  end
  ok_ms = math.max(ok_ms, tonumber(known.ok_at_ms or 0))
  failed_ms = math.max(failed_ms, known_failed_ms)
  since = earliest_after(ok_ms, {since, tonumber(known.since_ms or 0), failed_ms})
  redis.call('HSET', cloud, 'ok_at_ms', text(ok_ms), 'since_ms', text(since), 'failed_at_ms', text(failed_ms))
  redis.call('PEXPIRE', cloud, CLOUD_HEALTH_KEPT_MS)
end

if tonumber(batch_number) <= tonumber(redis.call('GET', batch) or 0) then
  return 0
end
redis.call('SET', batch, batch_number, 'PX', COUNTERS_KEPT_MS)
add_counts()
if tonumber(ok_at_ms) > 0 or tonumber(failed_at_ms) > 0 then
  merge_cloud_health(tonumber(ok_at_ms), tonumber(since_ms), tonumber(failed_at_ms))
end
return 1
