-- Writes an operator's record, or removes it, if no operator was changed since the caller read them all. What the caller
-- decided by them still holds then, such as that an admin is left. There is one epoch for all operators; it only rises.
-- Not to be sent again blindly: the second answer is 0.
--
-- `read_epoch`: the last epoch that the caller read; '': there was none yet
-- `record`: the new one, which begins with `epoch`; '': remove it
-- Returns 1, or 0 if an operator was changed meanwhile.

local operators, last_epoch = unpack(KEYS)
local read_epoch, epoch, name, record, actor, request_id, event, detail = unpack(ARGV, 2)

if (redis.call('GET', last_epoch) or '') ~= read_epoch then
  return 0
end
redis.call('SET', last_epoch, epoch)
if record == '' then
  redis.call('HDEL', operators, name)
else
  redis.call('HSET', operators, name, record)
end
audit{who = actor, request_id = request_id, what = event, detail = detail}
return 1
