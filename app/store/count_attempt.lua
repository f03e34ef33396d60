-- Counts an attempt to prove a password, or answers how long to wait: some attempts are free, then the delay after the
-- last one is 1, 2, 4 ... seconds. An attempt that comes too early is not counted at all.
-- Not to be sent again: it would count twice.
--
-- `counters`: of the name from this address, of the name, and of the address, if it is known
-- `limits`: for each counter how many attempts are free, and its longest delay in ms
-- Returns 0, or how many ms to wait.

local counters = {unpack(KEYS)}
local limits = {unpack(ARGV, 2)}

-- Returns for how many ms this counter still delays an attempt.
local function delay_ms(counter, free, longest_ms)
  local last = read_fields(counter, 'count', 'at_ms')
  local count, at_ms = tonumber(last.count or 0), tonumber(last.at_ms or 0)
  if at_ms + ATTEMPTS_KEPT_MS <= now_ms then
    redis.call('DEL', counter)
    return 0
  end
  if count < free then
    return 0
  end
  local full_ms = math.min(longest_ms, 1000 * 2 ^ math.min(count - free, 30))
  -- Not more than that, even if the clock was set back since.
  return math.min(full_ms, at_ms + full_ms - now_ms)
end

local wait_ms = 0
for i, counter in ipairs(counters) do
  wait_ms = math.max(wait_ms, delay_ms(counter, tonumber(limits[2 * i - 1]), tonumber(limits[2 * i])))
end
if wait_ms > 0 then
  return math.ceil(wait_ms)
end
for _, counter in ipairs(counters) do
  redis.call('HINCRBY', counter, 'count', 1)
  redis.call('HSET', counter, 'at_ms', now_ms)
  redis.call('PEXPIRE', counter, ATTEMPTS_KEPT_MS)
end
return 0
