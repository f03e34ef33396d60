-- What every script begins with, after the constants that Python hands over (script.py).
-- ARGV[1] is always the clock's shift in ms: 0 outside tests.

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2] + ARGV[1] * 1000
end

-- The hash tag with which every key of a shard begins; keys that a script is not given by name are built from it. The
-- keys of operators, of jobs and of the cloud's quotas have tags of their own.
local shard = string.match(KEYS[1], '^{%w+}:')

local function append(list, item, second)
  list[#list + 1] = item
  list[#list + 1] = second -- if there is one
end

