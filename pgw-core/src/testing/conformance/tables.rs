//! The tables: every function of the suite, once. The tests of a backend and the list of names both come from here, so
//! none can be forgotten; a test compares the tables with the sources.

/// Every function that a storage is tested with, handed to another macro.
#[doc(hidden)]
#[macro_export]
macro_rules! storage_conformance_table {
    ($then:ident! $($arguments:tt)*) => {
        $crate::$then! {
            [$($arguments)*]
            storage_commit {
                an_applied_commit_is_there_whole
                a_failed_guard_writes_nothing
                an_empty_commit_is_applied
                too_many_parts_are_refused_and_write_nothing
                as_many_parts_as_allowed_are_applied
                too_many_bytes_are_refused_and_write_nothing
                as_many_bytes_as_allowed_are_applied
                a_row_of_another_merchant_is_refused
                a_row_of_the_other_mode_is_refused
                a_delivery_that_does_not_exist_cannot_be_replaced
                an_attempt_of_an_unknown_delivery_is_refused
                a_conflict_that_does_not_exist_cannot_be_closed
                an_answer_of_an_unclaimed_key_is_refused
                an_operation_without_its_payment_is_refused
                the_same_changes_again_conflict
                a_later_write_replaces_the_row
                of_two_writes_of_one_row_the_later_counts
                operations_keep_the_order_they_were_first_written_in
                a_commit_is_seen_through_every_handle
                a_reader_never_sees_half_a_commit
                a_dropped_commit_leaves_all_or_nothing
                dropped_futures_leave_nothing_behind
                the_due_hint_names_the_jobs_made_due
                concurrent_commits_on_different_payments_are_all_applied
                concurrent_commits_of_different_merchants_are_all_applied
                a_full_storage_says_so_and_stays_readable
            }
            storage_guards {
                a_payment_guard_holds_at_its_version
                a_payment_guard_fails_at_any_other_version
                a_payment_guard_of_version_0_means_there_is_none
                an_endpoint_guard_holds_at_its_version
                an_endpoint_guard_fails_at_any_other_version
                an_endpoint_guard_of_version_0_means_there_is_none
                an_api_key_guard_holds_at_its_version
                an_api_key_guard_fails_at_any_other_version
                an_api_key_guard_of_version_0_means_there_is_none
                a_delivery_guard_holds_at_its_version
                a_delivery_guard_fails_at_any_other_version
                a_cursor_guard_holds_where_the_cursor_stands
                a_cursor_guard_fails_anywhere_else
                the_first_failed_guard_is_named
                one_failed_guard_among_many_is_enough
                a_guard_sees_its_own_scope_only
                of_concurrent_commits_with_one_guard_one_is_applied
                of_concurrent_creations_one_is_applied
                of_concurrent_moves_of_a_cursor_one_is_applied
                no_update_is_lost_when_losers_try_again
            }
            storage_keys {
                a_key_that_was_never_claimed_is_not_found
                a_claim_is_recorded
                a_claim_is_recorded_with_its_answer
                a_key_stands_for_an_object_of_any_kind
                the_same_request_again_is_replayed_and_writes_nothing
                the_same_request_again_without_an_answer_is_in_flight
                another_request_under_the_key_is_refused_and_writes_nothing
                a_replay_wins_over_a_failed_guard
                a_claim_in_flight_wins_over_a_failed_guard
                a_reused_key_wins_over_a_failed_guard
                a_failed_guard_leaves_the_key_free
                a_refused_change_is_not_replayed
                a_commit_with_a_missing_row_leaves_the_key_free
                an_answer_stored_later_is_replayed
                the_same_key_in_another_scope_is_another_key
                an_answer_is_stored_in_its_own_scope
                every_key_is_kept_as_it_is
                of_concurrent_commits_with_one_key_one_is_applied
                of_concurrent_requests_under_one_key_one_is_applied
                an_answer_is_kept_byte_for_byte
                an_answer_that_an_event_tells_is_kept_like_any_other
                a_purged_answer_leaves_its_claim
                a_purge_spares_keys_claimed_later
                a_purge_drops_up_to_its_limit
            }
            storage_deliveries {
                an_event_is_delivered_to_every_endpoint_that_hears_it
                an_endpoint_whose_filters_do_not_match_hears_nothing
                every_event_type_is_heard_by_its_own_filters
                a_disabled_endpoint_hears_nothing
                a_deleted_endpoint_hears_nothing
                an_endpoint_enabled_again_hears_what_follows
                an_event_is_not_delivered_to_other_scopes
                an_endpoint_created_in_the_same_commit_does_not_hear_it
                an_endpoint_disabled_in_the_same_commit_does_not_hear_it
                an_endpoint_deleted_in_the_same_commit_does_not_hear_it
                an_endpoint_enabled_in_the_same_commit_does_not_hear_it
                a_new_delivery_is_pending_without_attempts
                a_delivery_comes_with_its_event_and_endpoint
                a_delivery_comes_with_its_endpoint_as_it_is_now
                each_event_of_a_commit_has_deliveries_of_its_own
                an_event_without_a_payment_is_delivered_too
                an_event_to_one_endpoint_is_delivered_to_no_other
                an_event_to_one_endpoint_that_is_silent_is_not_delivered
                an_event_to_an_unknown_endpoint_is_refused
                a_failed_commit_makes_no_deliveries
                a_delivery_is_replaced_in_every_state
                attempts_are_listed_oldest_first
                attempts_are_limited_to_the_latest
                attempts_belong_to_their_delivery
            }
            storage_events {
                a_timeline_is_in_order_of_its_sequence
                a_timeline_starts_after_a_sequence
                a_timeline_is_limited
                a_timeline_is_of_one_payment
                a_timeline_does_not_wait_for_stamps
                the_feed_shows_stamped_events_only
                positions_are_dense_from_1
                positions_are_counted_per_scope
                an_event_stamped_later_comes_later
                a_payments_events_are_stamped_in_their_order
                stamping_says_how_many_it_stamped
                concurrent_stampers_leave_no_gap_and_no_double
                events_committed_while_stamping_are_not_lost
                the_feed_is_read_from_a_position_on
                a_stamp_changes_nothing_else
                a_cursor_stands_where_it_was_moved
                a_cursor_may_be_moved_back
            }
            storage_reads {
                reads_of_an_empty_storage_find_nothing
                a_payment_is_found_by_any_of_its_operations
                an_empty_filter_shows_every_payment
                payments_are_filtered_by_status
                payments_are_filtered_by_customer
                payments_are_filtered_by_currency
                payments_are_filtered_by_time
                payments_are_filtered_by_idempotency_key
                payments_are_filtered_by_unknown_outcomes
                filters_of_payments_all_count
                a_filter_follows_a_payments_changes
                refunds_are_the_refunds_of_a_payment
                deliveries_are_filtered_by_status
                deliveries_are_filtered_by_endpoint_and_type
                deliveries_are_filtered_by_time
                conflicts_are_listed_oldest_first
                a_closed_conflict_is_kept_with_its_time
                a_conflict_is_closed_for_its_own_payment
                a_deleted_endpoint_is_found_but_not_listed
                an_api_key_is_found_by_its_prefix
                audit_rows_are_of_one_merchant_and_both_modes
                other_scopes_see_nothing_of_a_payment
                other_scopes_see_nothing_of_a_delivery
            }
            storage_lists {
                payments_are_newest_first
                refunds_are_newest_first
                endpoints_are_newest_first
                deliveries_are_newest_first
                audit_rows_are_newest_first
                api_keys_are_newest_first
                pages_of_payments_fit_together
                pages_of_refunds_fit_together
                pages_of_endpoints_fit_together
                pages_of_deliveries_fit_together
                pages_of_audit_rows_fit_together
                pages_of_api_keys_fit_together
                pages_of_payments_go_back
                pages_of_refunds_go_back
                pages_of_endpoints_go_back
                pages_of_deliveries_go_back
                pages_of_audit_rows_go_back
                pages_of_api_keys_go_back
                a_cursor_need_not_be_a_row
                pages_of_a_filtered_list_fit_together
                deleted_endpoints_take_no_room_on_a_page
            }
            storage_due {
                an_operation_is_due_with_its_payment
                a_new_delivery_is_due_at_once
                an_operation_is_due_when_its_delay_is_over
                a_delivery_is_due_when_its_delay_is_over
                an_operation_without_a_delay_is_never_due
                a_delivery_without_a_delay_is_never_due
                a_later_write_decides_when_it_is_due
                a_write_of_the_payment_alone_moves_no_due_time
                a_job_without_a_row_is_stale
                a_job_of_another_scope_is_stale
                due_all_answers_as_due_does
                due_jobs_are_of_every_scope
                due_jobs_are_of_one_lane
                pages_of_due_jobs_list_each_once
                due_jobs_are_longest_due_first_and_limited
                reading_due_work_claims_nothing
                a_delivery_stays_due_when_its_endpoint_is_disabled
                a_payment_expires_when_its_time_ran_out
                only_waiting_or_held_payments_expire
                a_payment_with_a_cancel_under_way_does_not_expire
                expired_payments_are_limited_and_of_every_scope
            }
            storage_parked {
                a_paused_endpoints_deliveries_are_parked
                a_long_pause_is_looked_at_every_hour
                a_write_of_the_endpoint_ends_its_pause
                a_pause_leaves_the_endpoint_as_it_is
                a_disabled_endpoint_parks_nothing
                a_pause_parks_no_other_endpoints_deliveries
                a_pause_needs_its_endpoint
                a_refused_commit_pauses_nothing
                an_ordered_payment_is_sent_in_order
                a_later_event_waits_as_long_as_the_earlier_one
                a_held_up_payment_holds_up_no_other
                an_endpoint_without_an_order_parks_nothing
                what_was_given_up_is_skipped_or_parks_the_rest
                a_wake_makes_the_next_one_due
                a_wake_of_nothing_is_nothing
                the_longer_of_two_waits_counts
                endpoints_sealed_otherwise_are_found
            }
            storage_access {
                an_api_key_is_found_by_its_id
                revoked_api_keys_are_listed_and_those_of_others_are_not
                the_use_of_an_api_key_is_noted_and_never_goes_back
                the_use_of_an_unknown_api_key_is_nothing
                a_write_of_an_api_key_leaves_when_it_was_last_used
                a_shield_that_was_never_written_is_empty
                every_shield_comes_back
                a_full_shield_comes_back
                there_is_one_shield_for_all_scopes
                a_shield_guard_holds_at_its_version_only
                of_concurrent_changes_of_the_shield_one_is_applied
            }
            storage_audit {
                audit_rows_are_filtered
                a_page_of_the_log_looks_at_so_many_rows_and_says_where_it_got
                audit_rows_are_read_by_place
                seals_come_back
                a_chain_of_seals_goes_on_where_it_ends
                a_seal_without_its_guard_is_refused
                of_concurrent_seals_one_is_applied
                every_log_ends_somewhere
            }
            storage_values {
                every_amount_comes_back
                every_text_comes_back
                the_longest_texts_come_back
                every_email_comes_back
                every_metadata_comes_back
                every_state_of_a_payment_comes_back
                every_state_of_an_operation_comes_back
                every_fence_comes_back
                every_time_comes_back
                every_body_comes_back_byte_for_byte
                every_merchant_is_kept_apart
                every_endpoint_comes_back
                every_option_of_an_endpoint_comes_back
                every_api_key_comes_back
                every_audit_row_comes_back
                every_conflict_comes_back
            }
            storage_erasures {
                an_erasure_comes_back
                erasures_are_newest_first
                a_customer_guard_counts_its_erasures
                of_concurrent_erasures_one_is_applied
                a_marked_payment_is_read_redacted
                a_rewritten_payment_is_read_as_before
                a_mark_is_about_one_customer_of_one_scope
                a_payment_created_after_the_mark_is_not_marked
                a_marked_payment_is_not_found_by_its_customer
                what_is_written_of_a_marked_payment_is_read_redacted
                what_was_planned_before_the_rewriting_conflicts
                rewriting_moves_no_due_time
                rewriting_is_limited_and_counted
                concurrent_rewriters_share_the_work
            }
            storage_consents {
                consents_come_back_oldest_first
                a_consent_guard_holds_at_its_version
                of_concurrent_consents_with_one_id_one_is_applied
                an_erasure_takes_over_the_consents
                customers_are_walked_in_pages
            }
        }
    };
}

/// Every function that a queue is tested with, handed to another macro.
#[doc(hidden)]
#[macro_export]
macro_rules! queue_conformance_table {
    ($then:ident! $($arguments:tt)*) => {
        $crate::$then! {
            [$($arguments)*]
            queue {
                an_empty_queue_gives_nothing
                a_due_job_is_claimed
                a_job_is_claimed_once_its_delay_is_over
                a_claim_never_returns_more_than_asked_for
                a_claim_never_returns_jobs_of_another_lane
                jobs_are_claimed_in_the_order_they_are_due
                a_claimed_job_is_not_given_to_another
                concurrent_claimers_share_the_jobs
                every_claim_has_a_fence_of_its_own
                a_job_is_claimed_again_when_its_lease_ran_out
                an_extended_claim_is_held_longer
                an_extension_counts_from_now
                a_stale_holder_can_neither_extend_nor_settle
                a_lease_that_nobody_claimed_anew_is_still_its_holders
                an_invented_fence_holds_nothing
                extend_and_settle_answer_for_each_claim
                a_done_job_is_forgotten
                a_claim_is_settled_once
                a_released_job_is_due_again_after_its_delay
                what_a_commit_settled_is_settled
                a_postponed_job_is_due_again_and_its_claim_does_not_count
                a_buried_job_is_never_claimed_again
                a_dropped_claim_ends_with_its_lease
                a_dropped_settlement_happened_or_did_not
                a_write_of_the_row_ends_the_claim
            }
            queue_fairness {
                an_endpoint_has_so_many_deliveries_out_and_no_more
                each_endpoint_has_room_of_its_own
                a_busy_endpoint_holds_up_no_other
                a_busy_endpoint_holds_up_no_other_merchant
                one_claim_goes_past_what_has_no_room
                a_settled_claim_makes_room
                a_claim_whose_lease_ran_out_makes_room
                an_extended_claim_keeps_its_room
                an_extended_claim_takes_its_room_back
                operations_have_no_such_bound
                concurrent_claimers_share_the_room_of_an_endpoint
            }
            queue_push {
                a_push_counts_unless_the_rows_are_the_queue
                a_job_pushed_twice_is_one_job
                what_was_lost_is_restored
                what_is_there_stays_as_it_is
                what_became_due_since_is_due
                the_earlier_due_time_stays
                a_job_pushed_while_claimed_waits_for_the_settlement
                a_job_pushed_while_claimed_keeps_its_delay
                a_push_during_a_claim_and_a_release_make_one_job
                a_job_pushed_while_claimed_survives_a_lost_holder
                a_postponed_job_that_is_restored_is_due
                a_buried_job_that_is_pushed_waits_again
                a_job_that_was_done_can_be_pushed_again
                a_claimed_job_is_the_job_that_was_pushed
                concurrent_pushers_and_claimers_lose_nothing
                a_dropped_push_happened_or_did_not
                an_empty_push_is_fine
                the_depth_of_an_empty_queue_is_zero
                the_depth_counts_each_job_once
                the_depth_follows_the_clock
                a_full_queue_says_so_and_goes_on
            }
        }
    };
}

/// Every function that a notifier is tested with, handed to another macro.
#[doc(hidden)]
#[macro_export]
macro_rules! notifier_conformance_table {
    ($then:ident! $($arguments:tt)*) => {
        $crate::$then! {
            [$($arguments)*]
            notifier {
                every_kind_of_hint_arrives
                a_hint_reaches_every_subscription
                hints_arrive_in_order
                a_hint_arrives_a_few_times_at_most
                a_new_subscription_hears_nothing_old
                a_subscription_waits_for_a_hint
                a_dropped_next_loses_no_hint
                a_dropped_publish_happened_or_did_not
                a_slow_subscriber_is_told_what_it_missed
                a_slow_subscriber_costs_the_others_nothing
                publishing_to_nobody_is_fine
                concurrent_publishers_are_all_heard
            }
        }
    };
}

/// Every function that a rate limiter is tested with, handed to another macro.
#[doc(hidden)]
#[macro_export]
macro_rules! rate_limiter_conformance_table {
    ($then:ident! $($arguments:tt)*) => {
        $crate::$then! {
            [$($arguments)*]
            rate_limiter {
                the_quota_is_admitted_at_once
                what_exceeds_the_quota_is_refused
                the_bound_holds_over_every_span
                a_refused_request_costs_nothing
                a_refusal_says_when_to_come_back
                remaining_counts_down
                the_whole_quota_is_there_again_after_the_reset
                the_quota_comes_back_with_time
                keys_are_independent
                handles_count_together
                concurrent_requests_share_the_quota
                limits_at_the_edges_work
            }
        }
    };
}
