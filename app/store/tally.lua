-- Adds what one instance counted to the minutes it belongs to, and what it saw of the cloud to what all saw.
-- May be sent again: of each instance's batches only one with a higher number than the last is taken.
--
-- KEYS  1 number of the instance's last batch   2 the cloud as last seen   3... minutes
-- ARGV  2 number of this batch   3 how long minutes are kept, 4 how long the cloud's health is (ms)
--       5 last success, 6 first failure since then, 7 last failure (Unix ms, 0: none)   8 its action   9 kind   10 code
--       11... by threes: place of the minute in KEYS, what was counted, how many
-- Returns  1, or 0 for a batch that was taken before

if tonumber(ARGV[2]) <= tonumber(redis.call('GET', KEYS[1]) or 0) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])

for i = 11, #ARGV, 3 do
  redis.call('HINCRBY', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2])
end
for i = 3, #KEYS do
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end

local ok, since, failed = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if ok == 0 and failed == 0 then
  return 1
end
local seen = redis.call('HMGET', KEYS[2], 'ok_at_ms', 'since_ms', 'failed_at_ms')
local seen_since, seen_failed = tonumber(seen[2] or 0), tonumber(seen[3] or 0)
ok = math.max(ok, tonumber(seen[1] or 0))
if failed > seen_failed then
  redis.call('HSET', KEYS[2], 'action', ARGV[8], 'kind', ARGV[9], 'code', ARGV[10])
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
redis.call('HSET', KEYS[2], 'ok_at_ms', text(ok), 'since_ms', text(earliest), 'failed_at_ms', text(failed))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
