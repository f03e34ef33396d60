-- Writes a device's record, and revokes its tokens and flights in the same step where that is meant. The epoch only
-- ever rises, and never falls behind Redis's clock, so removing and adding again cannot bring an old one back.
-- Not to be sent again blindly: the second answer is 'conflict'.
--
-- Returns  {'conflict'} | {'done', epoch, how many tokens and flights were revoked}

local device, devices, device_index = unpack(KEYS)
local client_id, read_epoch, record, sealed_key, revokes, previous_key,
  actor, request_id, event, detail = unpack(ARGV, 2)

local epoch = redis.call('HGET', device, 'epoch')
if (epoch or '') ~= read_epoch then
  return {'conflict'}
end

local revoked = 0
if revokes == '1' then
  revoked = revoke(redis.call('ZRANGE', device_index, 0, -1), {priority = OPERATOR, who = actor, request_id = request_id})
end

audit{who = actor, request_id = request_id, what = event, client_id = client_id, detail = detail}
if record == '' then
  redis.call('DEL', device)
  redis.call('SREM', devices, client_id)
  return {'done', '0', revoked}
end

local raised = string.format('%.0f', math.max(now_us(), (tonumber(epoch) or 0) + 1))
redis.call('HSET', device, 'epoch', raised, 'record', record, 'key', sealed_key)
if previous_key == '' then
  redis.call('HDEL', device, 'previous')
else
  redis.call('HSET', device, 'previous', previous_key)
end
redis.call('SADD', devices, client_id)
return {'done', raised, revoked}
