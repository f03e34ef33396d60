-- Counts an attempt to prove a password, or tells that it comes too early. Some are free; before each further one more
-- time must have passed since the last: 1, 2, 4 ... seconds. One that comes too early is not counted at all.
-- Not to be sent again: it would count twice.
--
-- `counters`: of the name from this address, of the name, and of the address, if it is known
-- `limits`: for each of these how many are free, and the longest delay in ms
-- Returns 0, or how many ms to wait.

local counters = {unpack(KEYS)}
local forget_ms = unpack(ARGV, 2)
local limits = {unpack(ARGV, 3)}

local function early_ms(key, free, longest_ms)
  local seen = redis.call('HMGET', key, 'count', 'at_ms')
  local count, at_ms = tonumber(seen[1] or 0), tonumber(seen[2] or 0)
  if at_ms + forget_ms <= now_ms then
    redis.call('DEL', key)
    return 0
  end
  if count < free then
    return 0
  end
  local delay_ms = math.min(longest_ms, 1000 * 2 ^ math.min(count - free, 30))
  -- Never longer than that, even if the clock was set back since.
  return math.min(delay_ms, at_ms + delay_ms - now_ms)
end

local wait_ms = 0
for place, key in ipairs(counters) do
  wait_ms = math.max(wait_ms, early_ms(key, tonumber(limits[2 * place - 1]), tonumber(limits[2 * place])))
end
if wait_ms > 0 then
  return math.ceil(wait_ms)
end
for _, key in ipairs(counters) do
  redis.call('HINCRBY', key, 'count', 1)
  redis.call('HSET', key, 'at_ms', now_ms)
  redis.call('PEXPIRE', key, forget_ms)
end
return 0
